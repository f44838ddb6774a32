package chunkstore

import (
	"encoding/binary"
	"os"

	"github.com/flistnode/flistnode/flist/chunk"
)

// segment is one that is open for reading.
type segment struct {
	*os.File
	users int  // guarded by segments.mu
	drop  bool // to be closed by its last user
}

// read returns the chunk at a place in its stored form, with Bytes in a buffer
// of chunk.NewBuffer. The content is not verified; the record's checksum is if
// withChecksum. The error matches fs.ErrNotExist if there is no such segment,
// and is a *chunk.CorruptError if what is there is not the record.
func (g *segments) read(id chunk.ID, at place, withChecksum bool) (chunk.Packed, error) {
	f, err := g.use(at.segment)
	if err != nil {
		return chunk.Packed{}, err
	}
	defer g.release(f)
	h := make([]byte, recordHeader+chunk.HeaderSize)
	bytes := chunk.NewBuffer(int(at.size) - chunk.HeaderSize)
	p, err := f.record(id, at, h, bytes)
	if err == nil && withChecksum && checksum(h, bytes) != binary.LittleEndian.Uint32(h) {
		err = &chunk.CorruptError{ID: id, Reason: "its checksum is wrong"}
	}
	if err != nil {
		chunk.Recycle(bytes)
		return chunk.Packed{}, err
	}
	return p, nil
}

// record reads a record into h and bytes, which are of its size.
func (f *segment) record(id chunk.ID, at place, h, bytes []byte) (chunk.Packed, error) {
	p := chunk.Packed{ID: id}
	err := readAll(f.File, [][]byte{h, bytes}, int64(at.offset))
	if err != nil {
		return p, &chunk.CorruptError{ID: id, Reason: err.Error()}
	}
	if chunk.ID(h[8:recordHeader]) != id || binary.LittleEndian.Uint32(h[4:]) != at.size {
		return p, &chunk.CorruptError{ID: id, Reason: "something else is in its place on the disk"}
	}
	if p, err = chunk.ParsePacked(id, h[recordHeader:]); err != nil {
		return p, err
	}
	p.Bytes = bytes
	return p, wellFormed(p)
}

// use returns a segment to be read until release.
func (g *segments) use(number uint32) (*segment, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, ok := g.open[number]
	if !ok {
		opened, err := os.Open(g.path(number))
		if err != nil {
			return nil, err
		}
		if len(g.open) >= maxOpenSegments || g.open == nil {
			g.dropOpen()
			g.open = make(map[uint32]*segment)
		}
		f = &segment{File: opened}
		g.open[number] = f
	}
	f.users++
	return f, nil
}

func (g *segments) release(f *segment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f.users--; f.drop {
		f.closeUnused()
	}
}

// dropOpen closes all that are open for reading; whoever reads goes on.
func (g *segments) dropOpen() {
	for _, f := range g.open {
		f.closeUnused()
	}
	g.open = nil
}

// closeUnused closes f now, or when its last user is done.
func (f *segment) closeUnused() {
	if f.drop = true; f.users == 0 {
		_ = f.Close() // it was only read
	}
}
