package chunkstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
	ds "github.com/ipfs/go-datastore"
)

// oldChunks are of sizes around those at which Badger kept values elsewhere.
func oldChunks() (all [][]byte) {
	for i, n := range []int{0, 1, 1000, 1018, 1019, 1020, 16_379, 16_380, 100_000, chunk.MaxSize} {
		all = append(all, randomBytes(uint64(i), n), append(textBytes(n/2), byte(i)))
	}
	return all
}

// oldStore makes a directory of version 1 with oldChunks, two records and an
// entry of a datastore, and one chunk that is damaged.
func oldStore(t *testing.T, dir string) (damaged chunk.ID) {
	t.Helper()
	s := &Store{dir: dir}
	s.log = discard
	db, err := badger.Open(s.oldOptions())
	if err != nil {
		t.Fatal(err)
	}
	set := func(key, value []byte) {
		if err := db.Update(func(txn *badger.Txn) error { return txn.Set(key, value) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, data := range oldChunks() {
		p := chunk.Pack(data)
		set(chunkKey(p.ID), p.AppendTo(nil))
	}
	damaged = chunk.Sum([]byte("damaged"))
	set(chunkKey(damaged), []byte{9, 255, 255, 255, 255, 1, 2, 3})
	set([]byte("rpins\x00short"), []byte("a"))
	set([]byte("rpins\x00long"), textBytes(MaxRecordBytes))
	set([]byte("d/dht/key"), textBytes(3000))
	set([]byte("x"), nil)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, versionFile), []byte("flistnode store 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return damaged
}

func wantTakenOver(t *testing.T, dir string, opts Options, damaged chunk.ID) {
	t.Helper()
	s := openT(t, dir, opts)
	for _, data := range oldChunks() {
		wantHeld(t, s, data)
	}
	if held, err := s.Has(t.Context(), damaged); held || err != nil {
		t.Errorf("the damaged chunk: held %v, %v", held, err)
	}
	if v, err := s.Record("pins", "long"); err != nil || !bytes.Equal(v, textBytes(MaxRecordBytes)) {
		t.Errorf("long record: %d bytes, %v", len(v), err)
	}
	if v, err := s.Record("pins", "short"); err != nil || string(v) != "a" {
		t.Errorf("short record: %q, %v", v, err)
	}
	if v, err := s.Datastore("/dht").Get(t.Context(), ds.NewKey("/key")); err != nil || !bytes.Equal(v, textBytes(3000)) {
		t.Errorf("datastore: %d bytes, %v", len(v), err)
	}
	putT(t, s, []byte("one more"))
	closeT(t, s)
	if _, err := os.Stat(filepath.Join(dir, "badger")); !os.IsNotExist(err) {
		t.Errorf("the old files are still there: %v", err)
	}
	if v, err := os.ReadFile(filepath.Join(dir, versionFile)); err != nil || string(v) != versionLine(Version) {
		t.Errorf("VERSION is %q, %v", v, err)
	}
}

func TestStoreOfTheOldFormatIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	damaged := oldStore(t, dir)
	wantTakenOver(t, dir, Options{}, damaged)
	wantTakenOver(t, dir, Options{}, damaged) // opened again
}

func TestTakeOverThatWasKilledIsBegunAnew(t *testing.T) {
	t.Run("while it copied", func(t *testing.T) {
		dir := t.TempDir()
		damaged := oldStore(t, dir)
		s := &Store{dir: dir, log: discard}
		if err := s.takeOver(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.chunksDir(), "00000009.seg"), textBytes(100), 0o600); err != nil {
			t.Fatal(err)
		}
		wantTakenOver(t, dir, Options{}, damaged)
		if _, err := os.Stat(filepath.Join(s.chunksDir(), "00000009.seg")); !os.IsNotExist(err) {
			t.Errorf("what the first left is still there: %v", err)
		}
	})
	t.Run("before it removed the old files", func(t *testing.T) {
		dir := t.TempDir()
		damaged := oldStore(t, dir)
		s := &Store{dir: dir, log: discard}
		if err := s.upgrade(); err != nil {
			t.Fatal(err)
		}
		wantTakenOver(t, dir, Options{}, damaged)
	})
}

// Nothing of a damaged store may be removed as if it had been taken over.
func TestDamagedStoreOfTheOldFormatIsKept(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, badgerDir string) error{
		"a missing table": func(t *testing.T, dir string) error {
			tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
			if err != nil || len(tables) == 0 {
				t.Fatalf("tables %v, %v", tables, err)
			}
			return os.Remove(tables[0])
		},
		"a damaged table": func(t *testing.T, dir string) error {
			tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
			if err != nil || len(tables) == 0 {
				t.Fatalf("tables %v, %v", tables, err)
			}
			f, err := os.OpenFile(tables[0], os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			return errors.Join(flip(30)(f, 0), f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			oldStore(t, dir)
			if err := damage(t, filepath.Join(dir, "badger")); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if s, err := Open(dir, Options{}); err == nil {
					closeT(t, s)
					t.Fatal("it was opened")
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "badger")); err != nil {
				t.Error(err)
			}
			if v, err := os.ReadFile(filepath.Join(dir, versionFile)); err != nil || string(v) != versionLine(1) {
				t.Errorf("VERSION is %q, %v", v, err)
			}
		})
	}
}

func TestTakeOverNeedsRoom(t *testing.T) {
	disk := smallDisk(t, "size=48m")
	dir := filepath.Join(disk, "store")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	damaged := oldStore(t, dir)
	_, err := Open(dir, Options{}) // its reserve alone is more
	wantDiskFull(t, err, dir)
	if v, err := os.ReadFile(filepath.Join(dir, versionFile)); err != nil || string(v) != versionLine(1) {
		t.Errorf("VERSION is %q, %v", v, err)
	}
	wantTakenOver(t, dir, Options{ReserveBytes: 4 << 20}, damaged)
}
