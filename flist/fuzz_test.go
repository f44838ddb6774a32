package flist

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist/chunk"
)

// chunks is a Source and Sink in memory. Load reads it from several
// goroutines; nobody writes then.
type chunks map[chunk.ID][]byte

var writing sync.Mutex // held while a Builder's chunks are put

func (m chunks) Get(_ context.Context, id chunk.ID) ([]byte, error) {
	if b, ok := m[id]; ok {
		return b, nil
	}
	return nil, chunk.ErrNotFound
}

func (m chunks) Put(_ context.Context, p chunk.Packed) error {
	b, err := p.Open()
	writing.Lock()
	defer writing.Unlock()
	m[p.ID] = bytes.Clone(b)
	return err
}

// counts lists the fields of c for the bundle, the fuzzer's picture of an
// flist: counts, then bytes and stored, then each table behind its length.
func (c *Counts) fields() []*uint64 {
	return []*uint64{&c.Inodes, &c.Entries, &c.Directories, &c.Files, &c.Symlinks, &c.Extents, &c.Packs, &c.Cuts, &c.Attrs, &c.XattrSets, &c.Xattrs}
}

func bundle(r *Root, m chunks) []byte {
	var b []byte
	for _, f := range r.Counts.fields() {
		b = binary.AppendUvarint(b, *f)
	}
	b = binary.AppendUvarint(binary.AppendUvarint(b, r.Bytes), r.Stored)
	for _, name := range mountSections {
		s := r.Sections[name]
		b = binary.AppendUvarint(b, s.Size)
		for _, l := range s.Chunks {
			b = append(b, m[l.ID()]...)
		}
	}
	return b
}

// unbundle makes an flist of what a bundle says; ok is false if it is cut.
func unbundle(b []byte) (c cid.Cid, m chunks, ok bool) {
	m = chunks{}
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			b = nil
			return 0
		}
		b = b[n:]
		return v
	}
	r := &Root{Version: Version, Sections: map[string]Section{}}
	for _, f := range r.Counts.fields() {
		*f = next()
	}
	r.Bytes, r.Stored = next(), next()
	tables := map[string][]byte{}
	for _, name := range mountSections {
		n := next()
		if n > uint64(len(b)) || n > sectionChunk {
			return cid.Undef, nil, false
		}
		tables[name], b = b[:n], b[n:]
	}
	if r.Counts.Files > 1000 {
		return cid.Undef, nil, false
	}
	tables[SectionDigests] = make([]byte, r.Counts.Files*32)
	for name, t := range tables {
		s := Section{Size: uint64(len(t))}
		if len(t) > 0 {
			p := chunk.Pack(t)
			m[p.ID] = t
			s.Chunks = []Link{Link(p.ID)}
		}
		r.Sections[name] = s
	}
	block, err := r.encode()
	if err != nil {
		return cid.Undef, nil, false
	}
	id := chunk.Sum(block)
	m[id] = block
	return cid.NewCidV1(cid.DagCBOR, id.Multihash()), m, true
}

// rebuild writes im anew through a Builder.
func rebuild(im *Image) (cid.Cid, error) {
	b, err := NewBuilder(chunks{}, BuilderOptions{Annotations: im.root.Annotations})
	if err != nil {
		return cid.Undef, err
	}
	node := func(ino Inode) Node {
		n := Node{Attr: im.Attr(ino), Target: im.Target(ino)}
		for name, value := range im.Xattrs(ino) {
			n.Xattrs = append(n.Xattrs, Xattr{name, value})
		}
		return n
	}
	base := [2]uint64{0, 0}
	if p := im.root.Counts.Packs; p > 0 {
		base[Cut] = im.chunkEnd.at(int(p - 1))
	}
	laid := base
	extents := func(ino Inode) (list []Extent) {
		if im.Mode(ino)&ModeType != ModeRegular {
			return nil
		}
		begin := uint64(0)
		for x := im.span.at(int(ino)).first; x < im.span.at(int(ino)).first+im.span.at(int(ino)).n; x++ {
			e := Extent{Kind: Hole, Length: im.extentEnd.at(int(x)) - begin}
			begin += e.Length
			if start := im.extentStart.at(int(x)); start != holeStart {
				if start >= base[Cut] {
					e.Stream = Cut
				}
				e.Kind, e.Start = Again, start-base[e.Stream]
				if start == laid[e.Stream] {
					e.Kind = Fresh
					laid[e.Stream] += e.Length
				}
			}
			list = append(list, e)
		}
		return list
	}
	errs := b.Root(node(RootInode))
	seen := Inode(0)
	for {
		dir, ok := b.NextDir()
		if !ok {
			break
		}
		first, end := im.Entries(dir)
		for e := first; e < end; e++ {
			name, ino := im.Entry(e)
			if ino <= seen {
				errs = errors.Join(errs, b.Link(name, ino))
				continue
			}
			seen = ino
			n := node(ino)
			n.Extents = extents(ino)
			_, err := b.Add(name, n)
			errs = errors.Join(errs, err)
		}
	}
	for i := range uint32(im.NumChunks()) {
		id, size := im.Chunk(i)
		s := Packed
		if uint64(i) >= im.root.Counts.Packs {
			s = Cut
		}
		errs = errors.Join(errs, b.AddChunk(s, id, size))
	}
	c, _, err := b.Finish(context.Background())
	return c, errors.Join(errs, err)
}

// use calls every look-up of an image; whatever Load let through must not
// make them fail, and must encode to the same bytes.
func use(t *testing.T, im *Image) {
	names := 0
	err := im.Walk(func(path []byte, ino Inode) error {
		if names++; names > 1+int(im.root.Counts.Entries) {
			return errors.New("the tree has a loop")
		}
		_, _ = im.Attr(ino), im.Parent(ino)
		if len(im.Path(ino)) < 1000 {
			got, err := im.Resolve(im.Path(ino))
			if err != nil || got != ino {
				return fmt.Errorf("Resolve(Path(%d)) = %d, %w", ino, got, err)
			}
		}
		for name, value := range im.Xattrs(ino) {
			if got, ok := im.Xattr(ino, name); !ok || !bytes.Equal(got, value) {
				return fmt.Errorf("xattr %q is lost", name)
			}
		}
		for off, n := uint64(0), 0; n < 100; n++ {
			p, ok := im.PieceAt(ino, off)
			if !ok {
				break
			}
			if !p.Hole {
				_, size := im.Chunk(p.Chunk)
				if uint64(p.ChunkOffset)+p.Length > uint64(size) {
					return fmt.Errorf("piece %+v is beyond its chunk of %d bytes", p, size)
				}
			}
			off += p.Length
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if names != 1+int(im.root.Counts.Entries) {
		t.Errorf("Walk met %d names, want %d", names, 1+im.root.Counts.Entries)
	}
	for d := range Diff(im, im, &Digests{im: im, sums: make([]byte, 32*im.root.Counts.Files), rank: make([]uint32, im.NumInodes())},
		&Digests{im: im, sums: make([]byte, 32*im.root.Counts.Files), rank: make([]uint32, im.NumInodes())}) {
		t.Errorf("image differs from itself: %q %v", d.Path, d.What)
	}
	c, err := rebuild(im)
	if err != nil || !c.Equals(im.cid) {
		t.Errorf("rebuilt as %s, %v; want %s: the same tree has two encodings", c, err, im.cid)
	}
}

// seedBundles are valid flists for the fuzzer to start from.
func seedBundles(tb testing.TB) [][]byte {
	var seeds [][]byte
	build := func(fill func(b *Builder) error) {
		m := chunks{}
		b, err := NewBuilder(m, BuilderOptions{})
		if err != nil {
			tb.Fatal(err)
		}
		err = b.Root(Node{Attr: Attr{Mode: ModeDir | 0o755}})
		b.NextDir()
		err = errors.Join(err, fill(b))
		for ok := true; ok; {
			_, ok = b.NextDir()
		}
		_, r, ferr := b.Finish(context.Background())
		if err := errors.Join(err, ferr); err != nil {
			tb.Fatal(err)
		}
		seeds = append(seeds, bundle(r, m))
	}
	add := func(b *Builder, name string, n Node) error {
		_, err := b.Add([]byte(name), n)
		return err
	}
	build(func(*Builder) error { return nil })
	build(func(b *Builder) error {
		return errors.Join(
			add(b, "a", Node{Attr: Attr{Mode: ModeRegular | 0o644, Mtime: Time{-1, 5}}, Extents: []Extent{{Length: 10}, {Kind: Hole, Length: 1 << 40}, {Kind: Again, Start: 2, Length: 3}}}),
			add(b, "c", Node{Attr: Attr{Mode: ModeBlock, Rdev: unix.Mkdev(8, 1)}, Xattrs: []Xattr{{[]byte("user.x"), []byte("y")}, {[]byte("user.y"), nil}}}),
			add(b, "d", Node{Attr: Attr{Mode: ModeDir | 0o1777}}),
			b.Link([]byte("e"), 1),
			add(b, "f", Node{Attr: Attr{Mode: ModeRegular, Btime: Time{9, 9}, HasBtime: true}, Extents: []Extent{{Stream: Cut, Length: 7}, {Stream: Cut, Length: 1}}}),
			add(b, "g", Node{Attr: Attr{Mode: ModeSymlink | 0o777}, Target: []byte("../a")}),
			b.AddChunk(Packed, chunk.Sum(nil), 10), b.AddChunk(Cut, chunk.Sum(nil), 8),
		)
	})
	return seeds
}

func FuzzLoad(f *testing.F) {
	seeds := seedBundles(f)
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, m, ok := unbundle(b)
		if !ok {
			return
		}
		if im, err := Load(t.Context(), m, c); err == nil {
			use(t, im)
		} else if e := new(FormatError); !errors.As(err, &e) {
			t.Errorf("error %v, want a FormatError", err)
		}
	})
}

// TestEveryFlippedByte changes each byte of an flist's tables in turn: Load
// refuses it, or it is another valid image.
func TestEveryFlippedByte(t *testing.T) {
	for _, seed := range seedBundles(t) {
		refused := 0
		for i := range seed {
			for _, x := range []byte{1, 0x80, 0xff} {
				b := bytes.Clone(seed)
				b[i] ^= x
				c, m, ok := unbundle(b)
				if !ok {
					continue
				}
				im, err := Load(t.Context(), m, c)
				if err != nil {
					refused++
					continue
				}
				use(t, im)
			}
		}
		if refused == 0 {
			t.Error("no change was refused")
		}
	}
}

func FuzzDecodeRoot(f *testing.F) {
	for _, s := range seedBundles(f) {
		c, m, _ := unbundle(s)
		id, _ := chunk.FromCID(c)
		f.Add(m[id])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRoot(b)
		if err != nil {
			return
		}
		if again, err := r.encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("a decoded root block encodes to other bytes: %v", err)
		}
	})
}

func FuzzReadFile(f *testing.F) {
	for _, s := range seedBundles(f) {
		c, m, _ := unbundle(s)
		im, err := Load(f.Context(), m, c)
		if err != nil {
			f.Fatal(err)
		}
		var file bytes.Buffer
		if err := WriteFile(f.Context(), &file, m, im, FileOptions{}); err != nil {
			f.Fatal(err)
		}
		f.Add(file.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := chunks{}
		c, err := ReadFile(t.Context(), bytes.NewReader(b), m)
		if err != nil {
			return
		}
		if im, err := Load(t.Context(), m, c); err == nil {
			use(t, im)
		}
	})
}

func TestVersionAndSizeAreRefused(t *testing.T) {
	seed := seedBundles(t)[1]
	c, m, _ := unbundle(seed)
	id, _ := chunk.FromCID(c)
	r, err := DecodeRoot(m[id])
	if err != nil {
		t.Fatal(err)
	}
	r.Version = 2
	block, err := encMode.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var version *VersionError
	if _, err := DecodeRoot(block); !errors.As(err, &version) || version.Version != 2 {
		t.Errorf("a newer version: %v", err)
	}
	r.Version = Version
	r.Counts.Inodes = 1 << 40
	if block, err = encMode.Marshal(r); err != nil {
		t.Fatal(err)
	}
	var format *FormatError
	if _, err := DecodeRoot(block); !errors.As(err, &format) {
		t.Errorf("counts beyond all bounds: %v", err)
	}
}
