package chunkstore

import (
	"bytes"
	"errors"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
)

// direct returns what is read past Badger for a chunk.
func direct(t *testing.T, s *Store, id chunk.ID) (data []byte, err error) {
	t.Helper()
	viewErr := s.view(func(txn *badger.Txn) error {
		item, err := txn.Get(chunkKey(id))
		if err != nil {
			return err
		}
		return s.values.open(item, id, func(p chunk.Packed) error {
			plain, err := p.Open()
			data = bytes.Clone(plain)
			return err
		})
	})
	return data, viewErr
}

func TestValuesAreReadPastBadgerWhereItKeepsThem(t *testing.T) {
	s := openT(t, t.TempDir(), Options{valueLogFileBytes: 1 << 20})
	var want [][]byte
	for i := range 30 { // several files, the last one still written to
		want = append(want, randomBytes(uint64(i), 100_000+i), append(textBytes(200_000), randomBytes(uint64(i), 5000)...))
	}
	for _, data := range want {
		putT(t, s, data)
	}
	for i, data := range want {
		if got, err := direct(t, s, chunk.Sum(data)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("chunk %d: %d bytes, %v", i, len(got), err)
		}
	}
	if n := len(s.values.files); n < 2 {
		t.Errorf("%d files were read, want several", n)
	}
}

func TestSmallValuesAreLeftToBadger(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	p := putT(t, s, []byte("kept beside its key"))
	if _, err := direct(t, s, p.ID); !errors.Is(err, errElsewhere) {
		t.Errorf("read past Badger: %v", err)
	}
	if got, err := s.Get(t.Context(), p.ID); err != nil || string(got) != "kept beside its key" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestOpenValueFilesAreBoundedAndNoneIsLeftByCompact(t *testing.T) {
	s := openT(t, t.TempDir(), Options{valueLogFileBytes: 1 << 20})
	p := putT(t, s, randomBytes(1, 100_000))
	if _, err := s.Get(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	if len(s.values.files) != 1 {
		t.Errorf("%d files open after a read, want 1", len(s.values.files))
	}
	used := s.values.take(1)
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.values.files) != 0 {
		t.Errorf("%d files open after Compact", len(s.values.files))
	}
	if _, err := used.ReadAt(make([]byte, 1), 0); err != nil {
		t.Errorf("a file was closed while it was read: %v", err)
	}
	s.values.release(used)
	if _, err := used.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("a file nobody uses any more was not closed")
	}
	s.values.files = make(map[uint32]*valueFile)
	for n := range uint32(maxValueFiles) {
		s.values.files[1000+n] = &valueFile{}
	}
	s.values.release(s.values.take(1))
	if len(s.values.files) != 1 {
		t.Errorf("%d files open, want the one that was read", len(s.values.files))
	}
}

func TestEntriesThatAreNotOfTheKeyAreRefused(t *testing.T) {
	key := []byte("key")
	entry := append([]byte{0, 0, 11, 5, 0}, "key12345678valueCRC!"...)
	if v, ok := valueOf(entry, key); !ok || string(v) != "value" {
		t.Errorf("got %q, %v", v, ok)
	}
	for name, e := range map[string][]byte{
		"empty": nil, "a header alone": entry[:5], "cut in the value": entry[:19], "another key": append([]byte{0, 0, 11, 5, 0}, "kez12345678valueCRC!"...),
		"a longer key": append([]byte{0, 0, 12, 5, 0}, "key12345678valueCRC!"...), "a huge value": append([]byte{0, 0, 11, 255, 255, 255, 255, 15, 0}, entry[5:]...),
		"a length without end": bytes.Repeat([]byte{255}, 20),
	} {
		if v, ok := valueOf(e, key); ok {
			t.Errorf("%s: got %q", name, v)
		}
	}
}
