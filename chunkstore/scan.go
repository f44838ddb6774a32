package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Stats says how full the store is.
type Stats struct {
	Chunks      int
	PackedBytes int64 // of the chunks as they are kept, headers included
	DiskBytes   int64 // that the directory takes on the disk
}

// Iterate calls fn for every chunk held, in the order of their IDs, with the
// bytes its stored form has, header included. It reads keys only. What is put
// or deleted meanwhile may be seen or not. It ends with the first error of fn,
// which it returns as it is.
func (s *Store) Iterate(ctx context.Context, fn func(id chunk.ID, packedSize int) error) error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	return s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{kindChunk}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			item := it.Item()
			var id chunk.ID
			if len(item.Key()) != 1+len(id) {
				continue
			}
			copy(id[:], item.Key()[1:])
			if err := fn(id, valueSize(item)); err != nil {
				return err
			}
		}
		return nil
	})
}

// valueSize is the exact length of a chunk's value, without reading it.
// Badger's ValueSize takes the length of the value in the value log's header
// for two bytes; it is a varint, and of three bytes from 1<<14 on. Below the
// value threshold there is no such header and ValueSize is exact, too.
func valueSize(item *badger.Item) int {
	n := int(item.ValueSize())
	if n > 1<<14 {
		n--
	}
	return n
}

// Stats counts the chunks by their keys: about 70 ms for 200,000.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var st Stats
	err := s.Iterate(ctx, func(_ chunk.ID, size int) error {
		st.Chunks++
		st.PackedBytes += int64(size)
		return nil
	})
	if err != nil {
		return Stats{}, err
	}
	st.DiskBytes, err = diskBytes(s.dir)
	return st, err
}

// diskBytes is what the files below dir take; Badger's active files are sparse,
// so their lengths say nothing.
func diskBytes(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // Badger removed it meanwhile
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure store: %w", err)
	}
	return sum, nil
}

// Compact gives space of deleted chunks back to the disk, by rewriting value
// log files of which more than half is deleted. It never touches the file
// being written. It may run beside everything else, but writes wait while it
// merges the tables (keys only: about 0.1 s for 200,000 chunks).
func (s *Store) Compact(ctx context.Context) error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	if s.faulted.Load() {
		return fmt.Errorf("compact store %s: refused after a read error of the disk; restart first", s.dir)
	}
	if err := s.room(s.opts.ReserveBytes); err != nil {
		return err
	}
	if err := s.mergeTables(); err != nil {
		return fmt.Errorf("compact store %s: %w", s.dir, err)
	}
	for ctx.Err() == nil {
		// A rewrite moves at most half a value log file.
		if err := s.room(s.badgerOptions().ValueLogFileSize/2 + s.smallReserve()); err != nil {
			return err
		}
		err := s.db.RunValueLogGC(0.5)
		s.values.close()
		switch {
		case errors.Is(err, badger.ErrNoRewrite), errors.Is(err, badger.ErrRejected):
			return nil
		case err != nil:
			return fmt.Errorf("compact store %s: %w", s.dir, err)
		}
	}
	return ctx.Err()
}

// mergeTables makes Badger learn what has been deleted since it last merged
// tables, which by itself it does after some 200,000 writes. Dropping a prefix
// is the one call that writes out the memtable and merges the first level, and
// only if a key has the prefix: that of the marker. Badger refuses writes
// meanwhile, so they are held back here.
func (s *Store) mergeTables() error {
	s.writes.Lock()
	defer s.writes.Unlock()
	marker := []byte{kindMarker}
	if err := s.db.Update(func(txn *badger.Txn) error { return txn.Set(marker, nil) }); err != nil {
		return err
	}
	if err := s.db.DropPrefix(marker); err != nil {
		return err
	}
	return s.db.Flatten(1)
}
