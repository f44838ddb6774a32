package chunkstore

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
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

// badDisk cannot read its bytes from..to.
type badDisk struct {
	io.ReaderAt
	from, to int64
	asked    int // how often it was asked for them
}

func (d *badDisk) ReadAt(b []byte, off int64) (int, error) {
	if off < d.to && off+int64(len(b)) > d.from {
		if off < d.from {
			n, _ := d.ReaderAt.ReadAt(b[:d.from-off], off)
			return n, syscall.EIO
		}
		d.asked++
		return 0, syscall.EIO
	}
	return d.ReaderAt.ReadAt(b, off)
}

func TestWhatTheDiskCannotReadIsPassedOver(t *testing.T) {
	content := randomBytes(1, 3<<20+17)
	size := int64(len(content))
	for _, bad := range [][2]int64{{0, 1}, {5000, 5001}, {8192, 12288}, {1 << 20, 2 << 20}, {3 << 20, size}, {0, size}, {size, size}} {
		d := &badDisk{ReaderAt: bytes.NewReader(content), from: bad[0], to: bad[1]}
		r := &patientReader{r: d, size: size}
		got, err := io.ReadAll(bufio.NewReaderSize(r, recordHeader+chunk.MaxPackedSize))
		if err != nil || len(got) != len(content) {
			t.Fatalf("bad %v: %d bytes, %v", bad, len(got), err)
		}
		// What is missed is sectors, and at most as much again as is bad.
		from, to := bad[0]/sector*sector, min(size, 2*bad[1]-bad[0]+2*sector)
		if bad[0] == bad[1] {
			from, to = size, size
		}
		missed := int64(0)
		for i, b := range got {
			if b == content[i] {
				continue
			}
			if missed++; int64(i) < from || int64(i) >= to || b != 0 {
				t.Fatalf("bad %v: byte %d is %d", bad, i, b)
			}
		}
		if r.unread.bytes < missed || (r.unread.err == nil) != (bad[0] == bad[1]) || d.asked > 12 {
			t.Errorf("bad %v: %d of %d missed bytes counted, asked %d times, %v", bad, r.unread.bytes, missed, d.asked, r.unread.err)
		}
	}
}
