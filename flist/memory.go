package flist

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrTableFile says that the file LoadMapped keeps tables in could not be made,
// written or mapped. Load can do without.
var ErrTableFile = errors.New("no file for the tables")

// memory is the bytes of one image's tables: on the heap, or in a file that
// has no name any more and is mapped. It lives as long as an Image has a
// reference. While it is filled, disjoint parts may be written concurrently.
type memory struct {
	b    []byte // all of it; never written to if there is a file
	file tableFile
	refs atomic.Int64
}

// tableFile is the file under a memory while it is filled.
type tableFile interface {
	io.WriterAt
	io.Closer
}

// heapMemory returns a memory on the heap, with one reference.
func heapMemory(size int64) (*memory, error) {
	m := &memory{b: make([]byte, size)}
	m.refs.Store(1)
	return m, nil
}

// mappedMemory returns a memory in a file in dir, with one reference. The file
// is written by pwrite, since a full disk is an error then, and not a fault.
func mappedMemory(dir string) func(size int64) (*memory, error) {
	return func(size int64) (*memory, error) {
		f, err := os.CreateTemp(dir, "flist-image-*")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTableFile, err)
		}
		m := &memory{file: f}
		m.refs.Store(1)
		if err = errors.Join(os.Remove(f.Name()), f.Truncate(size)); err == nil {
			m.b, err = unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTableFile, errors.Join(err, f.Close()))
		}
		return m, nil
	}
}

// write puts p where it belongs.
func (m *memory) write(p []byte, off int64) error {
	if m.file == nil {
		copy(m.b[off:], p)
		return nil
	}
	if _, err := m.file.WriteAt(p, off); err != nil {
		return fmt.Errorf("%w: %w", ErrTableFile, err)
	}
	return nil
}

// seal ends the filling.
func (m *memory) seal() error {
	if m.file == nil {
		return nil
	}
	if err := m.file.Close(); err != nil {
		return fmt.Errorf("%w: %w", ErrTableFile, err)
	}
	return nil
}

// release gives one reference back.
func (m *memory) release() {
	if m.refs.Add(-1) > 0 {
		return
	}
	b := m.b
	m.b = nil
	if m.file == nil {
		return
	}
	if err := unix.Munmap(b); err != nil {
		panic(fmt.Errorf("flist: unmap tables: %w", err)) // it was mapped like this
	}
}

// part is a run of bytes of a memory.
type part struct{ off, size int64 }

func (m *memory) part(p part) []byte { return m.b[p.off : p.off+p.size : p.off+p.size] }

// fill writes the numbers of a part one after the other. Whoever uses it sees
// to it that they are not more than the part has room for, and reads the part
// after flush only.
type fill struct {
	mem *memory
	off int64
	buf []byte
	err error
}

const fillBytes = 64 << 10

func (m *memory) fill(p part) *fill {
	return &fill{mem: m, off: p.off, buf: make([]byte, 0, min(p.size, fillBytes)+8)}
}

func (f *fill) u32(v uint32) {
	f.buf = binary.LittleEndian.AppendUint32(f.buf, v)
	if len(f.buf) >= fillBytes {
		f.write()
	}
}

func (f *fill) u64(v uint64) {
	f.buf = binary.LittleEndian.AppendUint64(f.buf, v)
	if len(f.buf) >= fillBytes {
		f.write()
	}
}

func (f *fill) write() {
	if f.err == nil {
		f.err = f.mem.write(f.buf, f.off)
	}
	f.off += int64(len(f.buf))
	f.buf = f.buf[:0]
}

// flush writes what is left and returns the first error.
func (f *fill) flush() error {
	f.write()
	return f.err
}

// layout says where in a memory the tables of an image are, and what is
// worked out from them.
type layout struct {
	sections                                    [mountTables]part
	span, nlink, nameEnd, chunkEnd, dirs, again part
	size                                        int64
}

func (r *Root) layout() layout {
	var l layout
	place := func(size uint64) part {
		p := part{l.size, int64(size)}
		l.size += (p.size + 7) &^ 7
		return p
	}
	for i, name := range mountSections {
		l.sections[i] = place(r.Sections[name].Size)
	}
	c := &r.Counts
	l.span, l.nlink = place(c.Inodes*8), place(c.Inodes*4)
	l.nameEnd, l.dirs = place(c.Entries*4), place(c.Directories*4)
	l.chunkEnd = place((c.Packs + c.Cuts) * 8)
	l.again = place((c.Entries + 1 - c.Inodes) * 4)
	return l
}

// link, extentStart and extentEnd are the columns of tables in whose place
// something else is put.
func (l *layout) link(c *Counts) part {
	p := l.sections[1]
	return part{p.off + int64(c.Directories)*4, int64(c.Entries) * 4}
}

func (l *layout) extentStart(c *Counts) part {
	return part{l.sections[3].off + int64(c.Files)*4, int64(c.Extents) * 8}
}

func (l *layout) extentEnd(c *Counts) part {
	p := l.extentStart(c)
	return part{p.off + p.size, p.size}
}
