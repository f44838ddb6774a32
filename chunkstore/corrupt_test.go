package chunkstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
)

// damage changes the one place in the segments where data stands.
func damage(t *testing.T, dir string, data []byte, change func(f *os.File, off int64) error) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "chunks", "*"+segmentExt))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		all, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		off := bytes.Index(all, data)
		if off < 0 {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := change(f, int64(off)); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("the chunk is in no segment")
}

func flip(delta int64) func(*os.File, int64) error {
	return func(f *os.File, off int64) error {
		var b [1]byte
		if _, err := f.ReadAt(b[:], off+delta); err != nil {
			return err
		}
		b[0] ^= 0x55
		_, err := f.WriteAt(b[:], off+delta)
		return err
	}
}

func TestDamageOnDiskIsFoundAndDroppedAlone(t *testing.T) {
	const n, size = 12, 30_000
	content := func(i int) []byte { return randomBytes(uint64(100+i), size) }
	zeros := func(f *os.File, off int64) error {
		_, err := f.WriteAt(make([]byte, size), off)
		return err
	}
	for name, change := range map[string]func(*os.File, int64) error{
		"first byte": flip(0), "last byte": flip(size - 1), "in the middle": flip(size / 2),
		"codec byte": flip(-chunk.HeaderSize), "size": flip(-2),
		"ID": flip(-chunk.HeaderSize - 20), "length": flip(int64(4 - recordHeader - chunk.HeaderSize)),
		"checksum": flip(int64(-recordHeader - chunk.HeaderSize)), "zeros": zeros,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var deleted []chunk.ID
			opts := Options{OnDelete: func(id chunk.ID) { deleted = append(deleted, id) }}
			s := openT(t, dir, opts)
			for i := range n {
				putT(t, s, content(i))
			}
			closeT(t, s)
			const bad = 4
			id := chunk.Sum(content(bad))
			damage(t, dir, content(bad), change)
			s = openT(t, dir, opts)
			for i := range n {
				if i != bad {
					wantHeld(t, s, content(i))
				}
			}
			corrupt := (*chunk.CorruptError)(nil)
			if _, err := s.GetPacked(t.Context(), id); !errors.As(err, &corrupt) || corrupt.ID != id {
				t.Errorf("GetPacked of a damaged chunk: %v", err)
			}
			if _, err := s.Get(t.Context(), id); !errors.Is(err, chunk.ErrNotFound) {
				t.Errorf("Get after it was dropped: %v", err)
			}
			if len(deleted) != 1 || deleted[0] != id {
				t.Errorf("OnDelete told of %v", deleted)
			}
			putT(t, s, content(bad))
			wantHeld(t, s, content(bad))
			closeT(t, s)
		})
	}
}

func TestSegmentCutShortUnderARunningStoreLosesWhatWasInIt(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{segmentBytes: 1 << 20})
	for i := range 60 {
		putT(t, s, randomBytes(uint64(i), 50_000))
	}
	first := randomBytes(0, 50_000)
	damage(t, dir, first, func(f *os.File, _ int64) error { return f.Truncate(0) })
	corrupt := (*chunk.CorruptError)(nil)
	if _, err := s.Get(t.Context(), chunk.Sum(first)); !errors.As(err, &corrupt) {
		t.Fatalf("Get from a file cut short: %v", err)
	}
	if held, err := s.Has(t.Context(), chunk.Sum(first)); err != nil || held {
		t.Errorf("Has = %v, %v", held, err)
	}
	wantHeld(t, s, randomBytes(59, 50_000))
	putT(t, s, first)
	wantHeld(t, s, first)
	closeT(t, s)
}

func TestMissingSegmentLosesWhatWasInIt(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{segmentBytes: 1 << 20})
	for i := range 60 {
		putT(t, s, randomBytes(uint64(i), 50_000))
	}
	closeT(t, s)
	first := randomBytes(0, 50_000)
	damage(t, dir, first, func(f *os.File, _ int64) error { return os.Remove(f.Name()) })
	s = openT(t, dir, Options{segmentBytes: 1 << 20})
	corrupt := (*chunk.CorruptError)(nil)
	if _, err := s.GetPacked(t.Context(), chunk.Sum(first)); !errors.As(err, &corrupt) {
		t.Fatalf("GetPacked from a file that is gone: %v", err)
	}
	wantHeld(t, s, randomBytes(59, 50_000))
	putT(t, s, first)
	wantHeld(t, s, first)
	closeT(t, s)
}

// A table cut short under a running store stands for a disk that cannot be
// read: both are a fault in mapped memory.
func TestUnreadableIndexIsAnErrorAndNotTheEnd(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{})
	putT(t, s, textBytes(5000))
	closeT(t, s)
	s = openT(t, dir, Options{})
	tables, err := filepath.Glob(filepath.Join(dir, "index", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	for _, name := range tables {
		if err := os.Truncate(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	corrupt := (*chunk.CorruptError)(nil)
	if _, err := s.Get(t.Context(), chunk.Sum(textBytes(5000))); !errors.As(err, &corrupt) {
		t.Errorf("Get by an index that cannot be read: %v", err)
	}
	if err := s.Put(t.Context(), chunk.Pack(textBytes(6000))); err == nil {
		t.Error("a chunk was put, though it cannot be known whether it is held")
	}
	if err := s.Compact(t.Context()); err == nil {
		t.Error("Compact relies on an index that cannot be read")
	}
	if err := s.Close(); !errors.Is(err, ErrLeftOpen) {
		t.Errorf("Close: %v", err)
	}
	inUse := (*InUseError)(nil)
	if _, err := Open(dir, Options{}); !errors.As(err, &inUse) {
		t.Errorf("Open of a store left open: %v", err)
	}
}

// damageIndex flips bits in the first block of the only table.
func damageIndex(t *testing.T, dir string) {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(dir, "index", "*.sst"))
	if err != nil || len(tables) != 1 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	f, err := os.OpenFile(tables[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(flip(30)(f, 0), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Chunks that the index does not show, since it is damaged, are there all the same.
func TestCompactRemovesNothingByADamagedIndex(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{segmentBytes: 1 << 20})
	for i := range 400 { // so that the table has several blocks
		putT(t, s, randomBytes(uint64(i), 5_000))
	}
	closeT(t, s)
	damageIndex(t, dir)
	before := segmentsBytes(t, dir)
	s = openT(t, dir, Options{segmentBytes: 1 << 20})
	if err := s.Compact(t.Context()); err == nil || !strings.Contains(err.Error(), "index is damaged") {
		t.Errorf("Compact: %v", err)
	}
	if err := s.Close(); err != nil && !errors.Is(err, ErrLeftOpen) {
		t.Error(err)
	}
	if after := segmentsBytes(t, dir); after != before {
		t.Errorf("segments have %d bytes, %d before", after, before)
	}
	if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil { // as docs/operations.md says
		t.Fatal(err)
	}
	s = openT(t, dir, Options{segmentBytes: 1 << 20})
	for i := range 400 {
		wantHeld(t, s, randomBytes(uint64(i), 5_000))
	}
}

func TestIndexThatCannotBeOpenedIsNamed(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{})
	putT(t, s, textBytes(5000))
	closeT(t, s)
	damageIndex(t, dir)
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "remove "+filepath.Join(dir, "index")) {
		t.Errorf("Open: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, openT(t, dir, Options{}), textBytes(5000))
}

func TestSegmentCutShortIsNotTrusted(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{})
	last := randomBytes(9, 40_000)
	putT(t, s, randomBytes(8, 40_000))
	putT(t, s, last)
	closeT(t, s)
	damage(t, dir, last, func(f *os.File, off int64) error { return f.Truncate(off + 1000) })
	s = openT(t, dir, Options{})
	wantHeld(t, s, randomBytes(8, 40_000))
	corrupt := (*chunk.CorruptError)(nil)
	if _, err := s.Get(t.Context(), chunk.Sum(last)); !errors.As(err, &corrupt) {
		t.Errorf("Get of a chunk cut off: %v", err)
	}
}
