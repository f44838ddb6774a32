package flist

import (
	"errors"
	"fmt"
	"math"
)

// Stream is one of the two streams of bytes that the data of an image is made
// of, each divided into chunks.
type Stream uint8

// Packed holds small files back to back, Cut the pieces of large ones.
const (
	Packed Stream = 0
	Cut    Stream = 1
)

// ExtentKind says where the bytes of an Extent come from.
type ExtentKind uint8

// Fresh: the next bytes of the stream. Again: bytes that earlier extents have
// laid down. Hole: zeros that are nowhere.
const (
	Fresh ExtentKind = iota
	Again
	Hole
)

// Extent is a run of a file's bytes, as the Builder takes it.
type Extent struct {
	Kind   ExtentKind
	Stream Stream // not for Hole
	Start  uint64 // position in the stream, for Again only
	Length uint64 // bytes, not 0
}

// Codes of the start column: fresh bytes of the one or the other stream, a
// hole, or (from againBase on) position<<1|stream of bytes laid down before.
const (
	codeFresh = 0 // + stream
	againBase = 2
	codeHole  = math.MaxUint64
)

// addFile appends the content and digest of a regular file.
func (b *Builder) addFile(n Node) error {
	b.root.Counts.Files++
	size, count := uint64(0), uint32(0)
	var last Extent
	flush := func() error {
		if last.Length == 0 {
			return nil
		}
		count++
		b.root.Counts.Extents++
		code := uint64(codeHole)
		switch last.Kind {
		case Fresh:
			code = codeFresh + uint64(last.Stream)
		case Again:
			code = againBase + (last.Start<<1 | uint64(last.Stream))
		}
		return errors.Join(b.extentStart.u64(code), b.extentLength.u64(last.Length))
	}
	for _, e := range n.Extents {
		if err := b.layDown(&e); err != nil {
			return err
		}
		if size += e.Length; size > math.MaxInt64 {
			return errors.New("flist: file larger than 2^63-1 bytes")
		}
		if last.Length > 0 && continues(last, e) {
			last.Length += e.Length
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		last = e
	}
	if err := flush(); err != nil {
		return err
	}
	if b.root.Bytes += size; b.root.Bytes > math.MaxInt64 {
		return errors.New("flist: files of more than 2^63-1 bytes")
	}
	if !n.HasDigest {
		n.Digest = [32]byte{}
	}
	return errors.Join(b.fileExtents.u32(count), b.digests.bytes(n.Digest[:]))
}

// layDown checks e against the streams and moves their ends.
func (b *Builder) layDown(e *Extent) error {
	if e.Length == 0 || e.Length > math.MaxInt64 || e.Stream > Cut || e.Kind > Hole {
		return fmt.Errorf("flist: extent %+v", *e)
	}
	switch e.Kind {
	case Fresh:
		e.Start = b.laid[e.Stream]
		b.laid[e.Stream] += e.Length
	case Again:
		if end := e.Start + e.Length; end < e.Start || end > b.laid[e.Stream] {
			return fmt.Errorf("flist: extent %+v beyond the %d bytes laid down", *e, b.laid[e.Stream])
		}
	}
	return nil
}

// continues reports whether e goes on where last ends, so that both are one.
func continues(last, e Extent) bool {
	if last.Kind != e.Kind {
		return false
	}
	return e.Kind == Hole || e.Stream == last.Stream && e.Start == last.Start+last.Length
}

// checkExtents turns start codes into positions in the data and lengths into
// ends in the file.
func (im *Image) checkExtents(l *layout) error {
	c := &im.root.Counts
	size := [2]uint64{}
	if c.Packs > 0 {
		size[Packed] = im.chunkEnd.at(int(c.Packs - 1))
	}
	size[Cut] = im.root.Stored - size[Packed]
	base := [2]uint64{0, size[Packed]}
	laid := [2]uint64{}
	total := uint64(0)
	starts, ends := im.mem.fill(l.extentStart(c)), im.mem.fill(l.extentEnd(c))
	for i := range im.span.len() {
		if im.Mode(Inode(i))&ModeType != ModeRegular {
			continue
		}
		s := im.span.at(i)
		end := uint64(0)
		var last Extent
		for x := int(s.first); x < int(s.first+s.n); x++ {
			e, err := decodeExtent(im.extentStart.at(x), im.extentEnd.at(x), size, &laid)
			if err != nil {
				return fmt.Errorf("inode %d: %w", i, err)
			}
			if x > int(s.first) && continues(last, e) {
				return malformed(SectionExtents, "inode %d has two extents that are one", i)
			}
			last = e
			if end += e.Length; end > math.MaxInt64 {
				return malformed(SectionExtents, "inode %d is larger than 2^63-1 bytes", i)
			}
			start := uint64(holeStart)
			if e.Kind != Hole {
				start = base[e.Stream] + e.Start
			}
			starts.u64(start)
			ends.u64(end)
		}
		if total += end; total > math.MaxInt64 {
			return malformed(SectionExtents, "files of more than 2^63-1 bytes")
		}
	}
	if laid != size {
		return malformed(SectionExtents, "files use %d bytes of the streams' %d", laid, size)
	}
	if total != im.root.Bytes {
		return malformed(SectionExtents, "files have %d bytes, root block says %d", total, im.root.Bytes)
	}
	return errors.Join(starts.flush(), ends.flush())
}

// decodeExtent reads one extent; laid is the bytes of each stream laid down
// so far, of size in all.
func decodeExtent(code, length uint64, size [2]uint64, laid *[2]uint64) (Extent, error) {
	if length == 0 || length > math.MaxInt64 {
		return Extent{}, malformed(SectionExtents, "extent of %d bytes", length)
	}
	switch {
	case code == codeHole:
		return Extent{Kind: Hole, Length: length}, nil
	case code < againBase:
		e := Extent{Kind: Fresh, Stream: Stream(code), Start: laid[code], Length: length}
		if length > size[e.Stream]-laid[e.Stream] {
			return e, malformed(SectionExtents, "extent of %d bytes beyond its stream", length)
		}
		laid[e.Stream] += length
		return e, nil
	}
	e := Extent{Kind: Again, Stream: Stream((code - againBase) & 1), Start: (code - againBase) >> 1, Length: length}
	if e.Start > laid[e.Stream] || length > laid[e.Stream]-e.Start {
		return e, malformed(SectionExtents, "extent repeats bytes that no earlier extent has")
	}
	return e, nil
}
