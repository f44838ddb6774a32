package chunkstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/flistnode/flistnode/flist/chunk"
	"golang.org/x/sys/unix"
)

// segments are the files that hold the chunks, one record behind another. They
// are written with pwritev(2) and read with preadv(2) and never mapped: a page
// of a mapping is zeroed before it is written, faults one by one, and ends the
// process where the disk is full. Only the newest is written to, and only at
// its end. A record counts once the index names its place.
//
// A record is, numbers little endian:
//
//	4 bytes   CRC-32C of all that follows
//	4 bytes   length of the chunk's stored form
//	32 bytes  ID of the chunk
//	          its stored form, see chunk.Packed.AppendTo
type segments struct {
	dir   string
	limit int64 // bytes from which on a segment is full

	appending sync.Mutex // held by who writes
	newest    *os.File   // nil if the next record begins a new one
	number    uint32     // of the newest there has been
	end       int64      // of the newest
	started   int64      // what of it is on its way to the disk

	syncing sync.Mutex // held during a sync, so that another waits for what that does for it

	mu       sync.Mutex
	open     map[uint32]*segment // for reading, by number; nil once closed
	unsynced map[uint32]struct{} // written to since the last sync
}

const (
	segmentExt       = ".seg"
	recordHeader     = 8 + len(chunk.ID{})
	maxOpenSegments  = 64        // 16 GiB of chunks
	writebackBytes   = 16 << 20  // written between two calls that start writing to the disk
	maxSegmentBytes  = 256 << 20 // from which on one is full
	maxRecordsAtOnce = maxIOVectors / 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// place says where the record of a chunk is: the value of its key in the index.
type place struct {
	segment uint32
	offset  uint32
	size    uint32 // of the stored form
}

const placeBytes = 12

func (p place) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, p.segment)
	b = binary.LittleEndian.AppendUint32(b, p.offset)
	return binary.LittleEndian.AppendUint32(b, p.size)
}

// recordBytes is what the record takes in its segment.
func (p place) recordBytes() int64 { return int64(recordHeader) + int64(p.size) }

// errNoPlace says that an entry of the index cannot be a place.
var errNoPlace = errors.New("the index is damaged")

func parsePlace(b []byte) (place, error) {
	if len(b) != placeBytes {
		return place{}, fmt.Errorf("%w: it has %d bytes", errNoPlace, len(b))
	}
	order := binary.LittleEndian
	p := place{order.Uint32(b), order.Uint32(b[4:]), order.Uint32(b[8:])}
	if p.size < chunk.HeaderSize || p.size > chunk.MaxPackedSize {
		return place{}, fmt.Errorf("%w: a chunk of %d bytes", errNoPlace, p.size)
	}
	return p, nil
}

// openSegments opens the segments in dir, which is made if it is missing.
func openSegments(dir string, limit int64) (*segments, error) {
	if limit == 0 {
		limit = maxSegmentBytes
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	g := &segments{dir: dir, limit: limit, unsynced: make(map[uint32]struct{})}
	numbers, err := g.numbers()
	if err != nil || len(numbers) == 0 {
		return g, err
	}
	g.number = numbers[len(numbers)-1]
	f, err := os.OpenFile(g.path(g.number), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	g.newest, g.end, g.started = f, info.Size(), info.Size()
	return g, nil
}

func (g *segments) path(number uint32) string {
	return filepath.Join(g.dir, fmt.Sprintf("%08d%s", number, segmentExt))
}

// numbers returns those of all segments, the newest last.
func (g *segments) numbers() ([]uint32, error) {
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint32
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentExt)
		if n, err := strconv.ParseUint(name, 10, 32); ok && err == nil {
			numbers = append(numbers, uint32(n))
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// append writes a record for each of ps and returns their places. After an
// error none of them counts.
func (g *segments) append(ps []chunk.Packed) ([]place, error) {
	g.appending.Lock()
	defer g.appending.Unlock()
	places := make([]place, 0, len(ps))
	for some := range slices.Chunk(ps, maxRecordsAtOnce) {
		if err := g.roomInNewest(); err != nil {
			return nil, err
		}
		iov, size := make([][]byte, 0, 2*len(some)), int64(0)
		for _, p := range some {
			at := place{g.number, uint32(g.end + size), uint32(chunk.HeaderSize + len(p.Bytes))}
			places = append(places, at)
			iov = append(iov, header(p), p.Bytes)
			size += at.recordBytes()
		}
		if err := writeAll(g.newest, iov, g.end); err != nil {
			return nil, errors.Join(err, g.newest.Truncate(g.end))
		}
		g.end += size
		g.wrote(g.number)
	}
	return places, nil
}

// header returns what precedes the bytes of p in its record.
func header(p chunk.Packed) []byte {
	h := make([]byte, recordHeader, recordHeader+chunk.HeaderSize)
	copy(h[8:], p.ID[:])
	h = p.AppendHeader(h)
	binary.LittleEndian.PutUint32(h[4:], uint32(chunk.HeaderSize+len(p.Bytes)))
	binary.LittleEndian.PutUint32(h, checksum(h, p.Bytes))
	return h
}

// checksum is that of the record with header h.
func checksum(h, bytes []byte) uint32 {
	return crc32.Update(crc32.Checksum(h[4:], castagnoli), castagnoli, bytes)
}

// roomInNewest begins a new segment if there is none or it is full.
func (g *segments) roomInNewest() error {
	if g.newest != nil && g.end >= g.limit {
		if err := g.seal(); err != nil {
			return err
		}
	}
	if g.newest == nil {
		f, err := os.OpenFile(g.path(g.number+1), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		g.newest, g.end, g.started = f, 0, 0
		g.number++
	}
	return nil
}

// wrote notes what is to be synced. It comes after the write, since a sync that
// came between the two would not have met it.
func (g *segments) wrote(number uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unsynced[number] = struct{}{}
}

// seal ends the newest segment; the next record begins another.
func (g *segments) seal() error {
	f := g.newest
	g.newest = nil
	if f == nil {
		return nil
	}
	return f.Close()
}

// sealIf seals the newest segment if due says so of its size.
func (g *segments) sealIf(due func(number uint32, size int64) bool) error {
	g.appending.Lock()
	defer g.appending.Unlock()
	if g.newest == nil || !due(g.number, g.end) {
		return nil
	}
	return g.seal()
}

// sealedSegment is one that is not written to any more.
type sealedSegment struct {
	number uint32
	size   int64
}

// sealed returns all segments but the newest.
func (g *segments) sealed() ([]sealedSegment, error) {
	g.appending.Lock()
	defer g.appending.Unlock()
	numbers, err := g.numbers()
	if err != nil {
		return nil, err
	}
	var sealed []sealedSegment
	for _, n := range numbers {
		if g.newest != nil && n == g.number {
			continue
		}
		info, err := os.Stat(g.path(n))
		if err != nil {
			return nil, err
		}
		sealed = append(sealed, sealedSegment{n, info.Size()})
	}
	return sealed, nil
}

// startWriteback makes the kernel begin to write what was appended to the
// disk, if that is enough by now. It promises nothing: what is on the disk, sync
// says, which then finds little left to do.
func (g *segments) startWriteback() {
	g.appending.Lock()
	number, from, size := g.number, g.started, g.end-g.started
	due := g.newest != nil && size >= writebackBytes
	if due {
		g.started = g.end
	}
	g.appending.Unlock()
	if !due {
		return
	}
	f, err := g.use(number)
	if err != nil {
		return
	}
	defer g.release(f)
	_ = unix.SyncFileRange(int(f.Fd()), from, size, unix.SYNC_FILE_RANGE_WRITE) // sync meets its errors again
}

// sync returns when all that was appended before is on the disk.
func (g *segments) sync() error {
	g.syncing.Lock()
	defer g.syncing.Unlock()
	g.mu.Lock()
	numbers := slices.Collect(maps.Keys(g.unsynced))
	clear(g.unsynced)
	g.mu.Unlock()
	if len(numbers) == 0 {
		return nil
	}
	err := syncFile(g.dir)
	for _, n := range numbers {
		err = errors.Join(err, ignore(fs.ErrNotExist, syncFile(g.path(n)))) // it may be removed meanwhile
	}
	if err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, n := range numbers {
			g.unsynced[n] = struct{}{}
		}
	}
	return err
}

func ignore(what, err error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

// syncFile returns when the file or directory is on the disk.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// remove removes a segment that is not the newest; who reads it goes on.
func (g *segments) remove(number uint32) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, ok := g.open[number]; ok {
		delete(g.open, number)
		f.closeUnused()
	}
	return os.Remove(g.path(number))
}

func (g *segments) close() error {
	g.appending.Lock()
	defer g.appending.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropOpen()
	return g.seal()
}
