package chunkstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
)

// rebuildIndex makes a lost index anew from the segments. What was deleted may
// come back with it, and the small records do not.
func (s *Store) rebuildIndex() error {
	if _, err := os.Stat(s.indexDir()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	numbers, err := s.segments.numbers()
	if err != nil || len(numbers) == 0 {
		return err
	}
	s.log.Warn("index is lost and made anew from the chunks", "store", s.dir, "segments", len(numbers))
	half := filepath.Join(s.dir, "index.new")
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	db, err := badger.Open(s.indexOptions(half))
	if err != nil {
		return err
	}
	if err := errors.Join(s.indexAll(db, numbers), db.Close()); err != nil {
		return err
	}
	if err := os.Rename(half, s.indexDir()); err != nil {
		return err
	}
	return syncFile(s.dir)
}

func (s *Store) indexAll(db *badger.DB, numbers []uint32) error {
	wb := db.NewWriteBatch()
	defer wb.Cancel()
	n := 0
	for _, number := range numbers {
		err := s.segments.records(number, func(id chunk.ID, at place) error {
			n++
			return wb.Set(chunkKey(id), at.append(nil))
		})
		if err != nil {
			return err
		}
	}
	s.log.Info("index made anew", "store", s.dir, "records", n)
	return wb.Flush()
}

// records calls fn for every whole record of a segment, in their order, and
// passes over what is none.
func (g *segments) records(number uint32, fn func(id chunk.ID, at place) error) error {
	f, err := os.Open(g.path(number))
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, recordHeader+chunk.MaxPackedSize)
	for off := int64(0); ; {
		id, size, err := peekRecord(r)
		if err != nil {
			return ignore(io.EOF, err)
		}
		skip := 1
		if size > 0 {
			at := place{number, uint32(off), uint32(size)}
			if err := fn(id, at); err != nil {
				return err
			}
			skip = int(at.recordBytes())
		}
		if _, err := r.Discard(skip); err != nil {
			return err
		}
		off += int64(skip)
	}
}

// peekRecord looks whether a record begins where r is, and returns the size of
// the chunk's stored form, 0 if none does. At the end the error is io.EOF.
func peekRecord(r *bufio.Reader) (id chunk.ID, size int, err error) {
	h, err := r.Peek(recordHeader + chunk.HeaderSize)
	if err != nil {
		return id, 0, err
	}
	n := binary.LittleEndian.Uint32(h[4:])
	if n < chunk.HeaderSize || n > chunk.MaxPackedSize {
		return id, 0, nil
	}
	b, err := r.Peek(recordHeader + int(n))
	if errors.Is(err, io.EOF) {
		return id, 0, nil // one that was cut off, or none
	}
	if err != nil || checksum(b, nil) != binary.LittleEndian.Uint32(b) {
		return id, 0, err
	}
	return chunk.ID(b[8:recordHeader]), int(n), nil
}
