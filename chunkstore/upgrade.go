package chunkstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/flistnode/flistnode/flist/chunk"
)

// In version 1 of the directory Badger, in badger/, had the chunks as well, as
// values of their keys in the stored form.

func (s *Store) oldDir() string { return filepath.Join(s.dir, "badger") }

// removeOld removes what version 1 had, once its content is taken over.
func (s *Store) removeOld() error { return os.RemoveAll(s.oldDir()) }

// upgrade makes a directory of version 1 one of this version: it copies
// everything. If it fails or is killed, it is begun anew at the next Open: till the
// end nothing of the old is touched.
func (s *Store) upgrade() error {
	if err := errors.Join(os.RemoveAll(s.indexDir()), os.RemoveAll(s.chunksDir())); err != nil {
		return err
	}
	switch _, err := os.Stat(s.oldDir()); {
	case errors.Is(err, fs.ErrNotExist): // a first start that was cut short
	case err != nil:
		return err
	default:
		if err := s.takeOver(); err != nil {
			return err
		}
	}
	return writeVersion(s.dir)
}

// takeOver copies all entries of the old Badger.
func (s *Store) takeOver() (err error) {
	size, err := diskBytes(s.oldDir())
	if err != nil {
		return err
	}
	if err := s.room(size + s.opts.ReserveBytes); err != nil {
		return fmt.Errorf("the chunks are copied, which takes %d MiB: %w", size>>20, err)
	}
	s.log.Info("store is brought to a new format", "store", s.dir, "MiB", size>>20)
	old, err := badger.Open(s.oldOptions())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	if err := viewOf(old, func(*badger.Txn) error { return verifyTables(old) }); err != nil {
		return fmt.Errorf("%s is damaged, so not all of it can be copied: the former program still reads the rest; without it the store begins empty: %w",
			s.oldDir(), err)
	}
	if s.segments, err = openSegments(s.chunksDir(), s.opts.segmentBytes); err != nil {
		return err
	}
	if s.db, err = badger.Open(s.indexOptions(s.indexDir())); err != nil {
		return errors.Join(err, s.segments.close())
	}
	err = s.copyOld(old)
	if err == nil {
		err = s.sync()
	}
	return errors.Join(err, s.db.Close(), s.segments.close())
}

func (s *Store) oldOptions() badger.Options {
	return badger.DefaultOptions(s.oldDir()).
		WithLogger(badgerLog{s.log}).
		WithBypassLockGuard(true).
		WithMetricsEnabled(false).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithMemTableSize(8 << 20).
		WithValueThreshold(1 << 10).
		WithValueLogFileSize(256 << 20).
		WithVerifyValueChecksum(true)
}

// copyOld copies all entries. A chunk that cannot be read is left out, as it
// would be dropped when somebody wanted it.
func (s *Store) copyOld(old *badger.DB) error {
	c := copier{s: s, index: s.db.NewWriteBatch()}
	defer c.index.Cancel()
	err := viewOf(old, func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := c.add(it.Item()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.writeChunks(); err != nil {
		return err
	}
	return c.index.Flush()
}

// copier writes what is added to it to the segments and the index.
type copier struct {
	s     *Store
	index *badger.WriteBatch
	ps    []chunk.Packed // not yet written
	bytes int            // of them
}

func (c *copier) add(item *badger.Item) error {
	key := item.KeyCopy(nil)
	value, err := copyValue(item)
	if len(key) != 1+len(chunk.ID{}) || key[0] != kindChunk {
		if err != nil {
			return fmt.Errorf("read entry %.80q: %w", key, err)
		}
		return c.index.Set(key, value)
	}
	id := chunk.ID(key[1:])
	var p chunk.Packed
	if err == nil {
		p, err = chunk.ParsePacked(id, value)
	}
	if err == nil {
		err = wellFormed(p)
	}
	if err != nil {
		c.s.log.Warn("corrupt chunk dropped", "chunk", id, "store", c.s.dir, "found", err)
		return nil
	}
	c.ps, c.bytes = append(c.ps, p), c.bytes+len(p.Bytes)
	if c.bytes < copiedTogether {
		return nil
	}
	return c.writeChunks()
}

// copiedTogether is from how many bytes of chunks on they are written.
const copiedTogether = 1 << 20

func (c *copier) writeChunks() error {
	places, err := c.s.segments.append(c.ps)
	if err != nil {
		return err
	}
	for i, p := range c.ps {
		if err := c.index.Set(chunkKey(p.ID), places[i].append(nil)); err != nil {
			return err
		}
	}
	c.ps, c.bytes = nil, 0
	c.s.segments.startWriteback()
	return nil
}
