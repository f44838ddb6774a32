package chunkstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
)

func TestLostIndexIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	content := func(i int) []byte { return randomBytes(uint64(i), 1+i*i*300) }
	fillSome := func(from, to int) {
		s := openT(t, dir, Options{segmentBytes: 1 << 20})
		for i := from; i < to; i++ {
			putT(t, s, content(i))
		}
		closeT(t, s)
	}
	fillSome(0, 20)
	// A record that a killed process has written in part, and more after it.
	segments, err := filepath.Glob(filepath.Join(dir, "chunks", "*"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(segments[len(segments)-1], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	torn := chunk.Pack(randomBytes(77, 100_000))
	if _, err := f.Write(append(header(torn), torn.Bytes[:50_000]...)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	fillSome(20, 40)
	const bad = 25
	damage(t, dir, content(bad), flip(1000))
	if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "index.new"), 0o700); err != nil { // of one that was cut short
		t.Fatal(err)
	}
	s := openT(t, dir, Options{segmentBytes: 1 << 20})
	for i := range 40 {
		if i != bad {
			wantHeld(t, s, content(i))
		}
	}
	for _, data := range [][]byte{content(bad), randomBytes(77, 100_000)} {
		if _, err := s.Get(t.Context(), chunk.Sum(data)); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("a record that is damaged: %v", err)
		}
	}
	putT(t, s, content(bad))
	wantHeld(t, s, content(bad))
}
