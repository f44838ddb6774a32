package chunkstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Badger writes the index, a write-ahead log and tables, into sparse files
// through mmap. When the disk is full, such a write is not an error but
// a SIGBUS in one of Badger's own goroutines, which ends the process and
// cannot be caught. So the store never lets Badger come that far:
//
//   - before each write it asks the file system for the free space, and
//     refuses with ENOSPC what would go into the reserve. What Badger writes
//     later by itself (a memtable as a table, merged tables) fits the reserve;
//   - it keeps a spare file of real blocks, and removes it when somebody else
//     has filled the disk and Badger still has to write, above all on Close.
//
// What remains: another process that takes the whole reserve and the spare
// file's room while Badger merges tables.

const (
	// spareBytes covers the last flush of Badger's memtables (8 MiB each).
	spareBytes = 16 << 20
	// minOpenBytes is what Badger needs to start: its discard statistics, an
	// empty value log file, a new write-ahead log.
	minOpenBytes = 4 << 20
)

// minFreeFiles is how many more files the file system must have room for: a
// Badger that cannot create its next file ends the process, too.
const minFreeFiles = 32

// freeBytes is what may be written below dir. It counts blocks that are
// promised to data not yet written as taken. It is 0 where no more files can
// be made.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Files > 0 && st.Ffree < minFreeFiles { // some file systems have no limit and say 0
		return 0, nil
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// room returns nil if the disk has reserve bytes free beside the writes under
// way.
func (s *Store) room(reserve int64) error {
	free, err := freeBytes(s.dir)
	if err != nil {
		return err
	}
	if free-s.writing.Load() >= reserve {
		return nil
	}
	s.dropSpareIfShort(spareBytes)
	return s.fullError(free, reserve)
}

func (s *Store) fullError(free, reserve int64) error {
	return fmt.Errorf("store %s: %w: %d MiB free, %d MiB are kept in reserve; free some space or use another directory",
		s.dir, syscall.ENOSPC, free>>20, reserve>>20)
}

// smallReserve is the part of the reserve left to what must go on when chunks
// no longer can: deleting, and the records of the node and the DHT.
func (s *Store) smallReserve() int64 { return s.opts.ReserveBytes / 4 }

// roomToOpen fails where Badger would be killed while it starts.
func (s *Store) roomToOpen() error {
	s.dropSpareIfShort(spareBytes)
	free, err := freeBytes(s.dir)
	if err != nil {
		return err
	}
	if free < minOpenBytes {
		return s.fullError(free, minOpenBytes)
	}
	return nil
}

// dropSpareIfShort removes the spare file if fewer than below bytes are free.
func (s *Store) dropSpareIfShort(below int64) {
	if free, err := freeBytes(s.dir); err != nil || free >= below {
		return
	}
	if err := os.Remove(s.sparePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("spare file not removed", "file", s.sparePath(), "err", err)
	}
}

// keepSpare writes the spare file if there is plenty of space. A store without
// one works; it is only less sure to end well on a full disk.
func (s *Store) keepSpare() {
	free, err := freeBytes(s.dir)
	if err != nil || free < s.opts.ReserveBytes+spareBytes {
		return
	}
	f, err := os.OpenFile(s.sparePath(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		s.log.Debug("no spare file", "err", err)
		return
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, spareBytes), f.Close()); err != nil {
		s.log.Debug("no spare file", "err", err)
	}
}

func (s *Store) sparePath() string { return filepath.Join(s.dir, spareFile) }
