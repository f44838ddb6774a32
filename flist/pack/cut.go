package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math"
	"sync/atomic"

	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist/chunk"
)

// How content is cut. These choices are part of what an flist CID is made of:
// changing one changes the CID of every tree, and old images share less with
// new ones.
const (
	// SmallFile: files of fewer bytes, and without holes, go whole into packs.
	SmallFile = 64 << 10
	// PackAvg is about the size of a pack. After each file a pack of at least
	// PackMin bytes ends with a probability of file size / PackAvg, decided by
	// the first eight bytes of the file's SHA-256; before a file that would
	// make it larger than PackMax it ends in any case.
	PackAvg = 32 << 10
	PackMin = PackAvg / 4
	PackMax = PackAvg * 4
	// All other content is cut by FastCDC (Xia et al., 2016): see cutPoint;
	// each run of data between holes on its own.
	CutMin    = 64 << 10
	CutNormal = 128 << 10
	CutMax    = 512 << 10
)

// The masks of FastCDC: 18 bits up to CutNormal and 14 after it, every third
// and every fourth from the top. With CutMin they make chunks of 122 KiB on
// average; docs/decisions.md compares them with others.
const (
	maskBeforeNormal uint64 = 0x9249249249249000
	maskAfterNormal  uint64 = 0x8888888888888800
)

// cutPoint returns the length of the first chunk of data, which holds CutMax
// bytes or ends with the content. The gear table is that of
// PlakarKorp/go-cdc-chunkers, which it beats by a factor of 1.8.
func cutPoint(data []byte) int {
	data = data[:min(len(data), CutMax)]
	if len(data) <= CutMin {
		return len(data)
	}
	var gear uint64
	normal := min(len(data), CutNormal)
	for i, b := range data[CutMin:normal] {
		gear = gear<<1 + fastcdc.G[b]
		if gear&maskBeforeNormal == 0 {
			return CutMin + i
		}
	}
	for i, b := range data[normal:] {
		gear = gear<<1 + fastcdc.G[b]
		if gear&maskAfterNormal == 0 {
			return normal + i
		}
	}
	return len(data)
}

// maxHashedHoles is up to how many bytes of holes a file's digest is recorded.
const maxHashedHoles = 64 << 30

// pieces are the chunks and holes of a large file, in order.
type pieces struct {
	blocks  [][]piece // filled up to their capacity, one after another, so that a piece stays where it is
	pending atomic.Int64
	done    chan struct{} // closed when all IDs are there
}

type piece struct {
	id     chunk.ID
	length uint64
	hole   bool
}

func newPieces() *pieces {
	p := &pieces{done: make(chan struct{})}
	p.pending.Store(1) // the cutter itself
	return p
}

// add appends a piece and returns where it stands.
func (p *pieces) add(length uint64, hole bool) *piece {
	last := len(p.blocks) - 1
	if last < 0 || len(p.blocks[last]) == cap(p.blocks[last]) {
		last++
		p.blocks = append(p.blocks, make([]piece, 0, min(4<<min(2*last, 8), 1024)))
	}
	b := append(p.blocks[last], piece{length: length, hole: hole})
	p.blocks[last] = b
	return &b[len(b)-1]
}

// finished says that one more of the IDs is known, or that cutting has ended.
func (p *pieces) finished() {
	if p.pending.Add(-1) == 0 {
		close(p.done)
	}
}

// cutter cuts large files. It belongs to one reader goroutine.
type cutter struct {
	putter *putter
	digest hash.Hash
	slab   *buffer // takes what is read next
	uncut  []byte  // the end of slab: what was read and is not yet cut
	zeros  []byte
}

func newCutter(p *putter) *cutter {
	return &cutter{putter: p, digest: sha256.New(), slab: slabs.get()}
}

// cutFile is what is known of a large file while it is cut.
type cutFile struct {
	fd     int
	size   uint64 // as fstat tells
	read   uint64 // bytes of data
	holes  uint64
	single bool // the one chunk is the whole file, so its ID is the digest
	pieces *pieces
}

// cut reads all of a file and hands its chunks to the putter. The IDs in the
// pieces are filled in later. An error that is not about the file is a
// *fatalError.
func (c *cutter) cut(ctx context.Context, fd int, size uint64) (*cutFile, error) {
	f := &cutFile{fd: fd, size: size, pieces: newPieces()}
	defer f.pieces.finished()
	c.digest.Reset()
	for off := uint64(0); off < size; {
		data, end, err := nextData(fd, off, size)
		if err != nil {
			return nil, err
		}
		if data > off {
			c.hole(f, data-off)
		}
		if data < size {
			if err := c.region(ctx, f, data, end); err != nil {
				return nil, err
			}
		}
		off = end
	}
	if size == 0 { // the size is not told, as in /proc
		if err := c.region(ctx, f, 0, math.MaxInt64); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// nextData returns the next run of data at or after off; both ends are size if
// there is none.
func nextData(fd int, off, size uint64) (data, end uint64, err error) {
	d, err := unix.Seek(fd, int64(off), unix.SEEK_DATA)
	switch err {
	case nil:
	case unix.ENXIO:
		return size, size, nil
	case unix.EINVAL, unix.EOPNOTSUPP: // the file system knows no holes
		return off, size, nil
	default:
		return 0, 0, fmt.Errorf("seek data: %w", err)
	}
	e, err := unix.Seek(fd, d, unix.SEEK_HOLE)
	if err == unix.ENXIO { // cut off meanwhile
		return 0, 0, ErrChanging
	}
	if err != nil {
		return 0, 0, fmt.Errorf("seek hole: %w", err)
	}
	return min(uint64(d), size), min(uint64(e), size), nil
}

func (c *cutter) hole(f *cutFile, n uint64) {
	f.pieces.add(n, true)
	f.holes += n
	if f.holes > maxHashedHoles {
		return
	}
	if c.zeros == nil {
		c.zeros = make([]byte, 256<<10)
	}
	for n > 0 {
		k := min(n, uint64(len(c.zeros)))
		c.digest.Write(c.zeros[:k])
		n -= k
	}
}

// region cuts the bytes from start to end, or to the end of the file.
func (c *cutter) region(ctx context.Context, f *cutFile, start, end uint64) error {
	c.uncut = nil
	for more := true; more || len(c.uncut) > 0; {
		n := cutPoint(c.uncut)
		if n == len(c.uncut) && n < CutMax && more {
			got, want, err := c.fill(f.fd, start, end)
			if err != nil {
				return fmt.Errorf("read: %w", err)
			}
			start += uint64(got)
			more = got == want && start < end
			continue
		}
		if err := c.emit(ctx, f, c.uncut[:n:n]); err != nil {
			return err
		}
		c.uncut = c.uncut[n:]
	}
	return nil
}

// Large files are read in steps of readMin to CutMax bytes, which stay in the
// processor's cache until they are cut and hashed.
const readMin = CutMax / 4

// fill reads more behind what is uncut, which is less than CutMax bytes. got is
// less than want at the end of the file.
func (c *cutter) fill(fd int, start, end uint64) (got, want int, err error) {
	want = int(min(CutMax, end-start))
	room := cap(c.slab.b) - len(c.slab.b)
	if room < min(want, readMin) {
		next := slabs.get()
		next.b = append(next.b, c.uncut...)
		c.slab.release()
		c.slab, room = next, cap(next.b)-len(next.b)
	}
	want = min(want, room)
	used, uncut := len(c.slab.b), len(c.uncut)
	got, err = preadFull(fd, c.slab.b[used:used+want], int64(start))
	c.slab.b = c.slab.b[:used+got]
	c.uncut = c.slab.b[used-uncut:]
	return got, want, err
}

// emit hands the next chunk of f to the putter. data lies in c.slab.
func (c *cutter) emit(ctx context.Context, f *cutFile, data []byte) error {
	if f.single {
		return ErrChanging // it was the whole file, but there is more
	}
	if f.single = uint64(len(data)) == f.size; !f.single {
		c.digest.Write(data)
	}
	p := f.pieces.add(uint64(len(data)), false)
	f.read += uint64(len(data))
	f.pieces.pending.Add(1)
	pieces := f.pieces
	c.slab.users.Add(1)
	if err := c.putter.submit(ctx, data, c.slab, func(id chunk.ID) {
		p.id = id
		pieces.finished()
	}); err != nil {
		return &fatalError{err}
	}
	return nil
}

// sum returns the digest of the file's content. For a single chunk it is left
// to the sequencer, who knows the ID.
func (c *cutter) sum(f *cutFile) (sum [sha256.Size]byte, ok bool) {
	if f.single || f.holes > maxHashedHoles {
		return sum, false
	}
	c.digest.Sum(sum[:0])
	return sum, true
}

// preadFull is pread until b is full or the file ends.
func preadFull(fd int, b []byte, off int64) (n int, err error) {
	for n < len(b) {
		got, err := pread(fd, b[n:], off+int64(n))
		if err != nil || got == 0 {
			return n, err
		}
		n += got
	}
	return n, nil
}

// pread is pread(2) that is not interrupted by signals.
func pread(fd int, b []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(fd, b, off)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// fatalError is an error that ends the run, not one of a file.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }

func isFatal(err error) (error, bool) {
	var f *fatalError
	if errors.As(err, &f) {
		return f.err, true
	}
	return nil, false
}
