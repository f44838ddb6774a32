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
		lost, err := s.segments.records(number, func(id chunk.ID, at place) error {
			n++
			return wb.Set(chunkKey(id), at.append(nil))
		})
		if err != nil {
			return err
		}
		if lost.bytes > 0 {
			s.log.Error("the disk cannot read a part of the chunks: what was there is lost", "segment", s.segments.path(number),
				"bytes", lost.bytes, "err", lost.err)
		}
	}
	s.log.Info("index made anew", "store", s.dir, "records", n)
	return wb.Flush()
}

// records calls fn for every whole record of a segment, in their order, and
// passes over what is none, and over what the disk cannot read.
func (g *segments) records(number uint32, fn func(id chunk.ID, at place) error) (unread, error) {
	f, err := os.Open(g.path(number))
	if err != nil {
		return unread{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return unread{}, err
	}
	whole := &patientReader{r: f, size: info.Size()}
	r := bufio.NewReaderSize(whole, recordHeader+chunk.MaxPackedSize)
	for off := int64(0); ; {
		id, size, err := peekRecord(r)
		if err != nil {
			return whole.unread, ignore(io.EOF, err)
		}
		skip := 1
		if size > 0 {
			at := place{number, uint32(off), uint32(size)}
			if err := fn(id, at); err != nil {
				return whole.unread, err
			}
			skip = int(at.recordBytes())
		}
		if _, err := r.Discard(skip); err != nil {
			return whole.unread, err
		}
		off += int64(skip)
	}
}

// patientReader reads size bytes of r, with zeros where r gives errors. No
// record is made of zeros.
type patientReader struct {
	r         io.ReaderAt
	off, size int64
	step      int64 // passed over at the next error: more with each one in a row, lest a dead disk is asked for ever
	unread    unread
}

// unread says what could not be read.
type unread struct {
	bytes int64
	err   error // the last one
}

// sector is the least that a disk cannot read, in bytes.
const sector = 4 << 10

func (p *patientReader) Read(b []byte) (int, error) {
	left := p.size - p.off
	if left <= 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), left)]
	n, err := p.r.ReadAt(b, p.off)
	switch {
	case n > 0:
		p.step = 0
	case errors.Is(err, io.EOF):
		return 0, err
	default:
		p.step = max(sector, 2*p.step)
		n = int(min(int64(len(b)), p.step-p.off%sector))
		clear(b[:n])
		p.unread = unread{p.unread.bytes + int64(n), err}
	}
	p.off += int64(n)
	return n, nil
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
