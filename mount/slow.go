package mount

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// SlowRead is one READ of the kernel that took long.
type SlowRead struct {
	Path   string // in the image, with leading slash; any bytes
	Offset uint64 // in the file
	Took   time.Duration
	At     time.Time // when it was answered
	Failed bool
}

// maxSlow bounds the slow reads that are remembered.
const maxSlow = 8

// slowReads are the slowest reads of a mount.
type slowReads struct {
	floor atomic.Int64 // what takes no longer is not among them, in nanoseconds
	mu    sync.Mutex
	list  []slowRead // the slowest first
}

type slowRead struct {
	path   string
	off    uint64
	took   time.Duration
	at     time.Time
	failed bool
}

// slow reports whether a read that took so long may be among the slowest.
func (s *slowReads) slow(took time.Duration) bool { return int64(took) > s.floor.Load() }

// note takes r in if it is among the slowest.
func (s *slowReads) note(r slowRead) {
	if !s.slow(r.took) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, r)
	slices.SortStableFunc(s.list, func(a, b slowRead) int { return cmp.Compare(b.took, a.took) })
	if len(s.list) >= maxSlow {
		s.list = s.list[:maxSlow]
		s.floor.Store(int64(s.list[maxSlow-1].took))
	}
}

func (s *slowReads) slowest() []SlowRead {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []SlowRead
	for _, r := range s.list {
		out = append(out, SlowRead{Path: r.path, Offset: r.off, Took: r.took, At: r.at, Failed: r.failed})
	}
	return out
}

// timed is a fileSystem that measures its reads.
type timed struct{ *fileSystem }

// Read implements fuse.RawFileSystem.
func (t timed) Read(gone <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	began := time.Now()
	res, status := t.fileSystem.Read(gone, in, buf)
	took := time.Since(began)
	if ino, ok := t.inode(in.NodeId); ok && status != statusOf(errInterrupted) && t.slow.slow(took) {
		t.slow.note(slowRead{path: string(t.im.Path(ino)), off: in.Offset, took: took, at: began.Add(took), failed: !status.Ok()})
	}
	return res, status
}
