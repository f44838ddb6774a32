package chunkstore

import (
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// writebackBytes is how much is put between two calls that make the kernel
// start to write it to the disk.
const writebackBytes = 16 << 20

// writeback makes the kernel write chunks to the disk while more come in.
// Badger syncs a value log file when it is full, while all who put and read
// wait, and Sync syncs the last one; with this they find little left to do.
// It promises nothing: what is on the disk, Sync says.
type writeback struct {
	mu      sync.Mutex // held while one call is under way
	counter sync.Mutex
	bytes   int64 // put since the last
}

// wrote counts size bytes and reports whether a call is due.
func (w *writeback) wrote(size int64) bool {
	w.counter.Lock()
	defer w.counter.Unlock()
	w.bytes += size
	if w.bytes < writebackBytes {
		return false
	}
	w.bytes = 0
	return true
}

// startWriteback starts writing what is in the newest value log file. Errors
// are left to Sync, which meets them again.
func (s *Store) startWriteback() {
	if !s.writeback.mu.TryLock() {
		return // one is under way
	}
	defer s.writeback.mu.Unlock()
	files, err := filepath.Glob(filepath.Join(s.badgerDir(), "*.vlog"))
	if err != nil || len(files) == 0 {
		return
	}
	f, err := os.Open(files[len(files)-1]) // Glob sorts, and the names have leading zeros
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
