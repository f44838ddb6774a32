package mount_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/mount"
)

// hints notes what is asked for ahead and keeps it waiting until released.
type hints struct {
	mu      sync.Mutex
	asked   []chunk.ID
	ended   int
	release chan struct{}
}

func (h *hints) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	h.mu.Lock()
	h.asked = append(h.asked, id)
	h.mu.Unlock()
	select {
	case <-h.release:
		return nil, nil
	case <-ctx.Done():
		h.mu.Lock()
		h.ended++
		h.mu.Unlock()
		return nil, ctx.Err()
	}
}

func (h *hints) counts() (asked, ended int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.asked), h.ended
}

// largeFile builds an image of one file of 8 MiB and returns its inode.
func largeFile(t *testing.T, m *memory) (*flist.Image, flist.Inode) {
	t.Helper()
	im := build(t, m, dir(0o755, map[string]*item{"large": file(0o644, noise(1, 8<<20))}))
	ino, err := im.Resolve([]byte("/large"))
	if err != nil {
		t.Fatal(err)
	}
	return im, ino
}

// chunksOf returns the chunks of a range of a file.
func chunksOf(t *testing.T, im *flist.Image, ino flist.Inode, from, to uint64) (ids []chunk.ID) {
	t.Helper()
	for from < to {
		p, ok := im.PieceAt(ino, from)
		if !ok {
			t.Fatalf("no content at %d", from)
		}
		id, _ := im.Chunk(p.Chunk)
		ids = append(ids, id)
		from += p.Length
	}
	return ids
}

func TestSequentialReaderHasTheNextChunksAskedForAndAJumpEndsThat(t *testing.T) {
	m := newMemory()
	im, ino := largeFile(t, m)
	h := &hints{release: make(chan struct{})}
	fs, end := mount.NewFileSystemAhead(im, m, h)
	read := func(off uint64) {
		t.Helper()
		in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: uint64(ino) + 1}, Offset: off, Size: 128 << 10}
		if _, status := fs.Read(nil, in, make([]byte, in.Size)); !status.Ok() {
			t.Fatalf("read at %d: %v", off, status)
		}
	}
	read(1<<20 - 128<<10)
	read(1 << 20)
	if n, _ := h.counts(); n != 0 {
		t.Errorf("two reads asked for %d chunks ahead", n)
	}
	read(1<<20 + 128<<10)
	// As much ahead as was read.
	next := uint64(1<<20 + 256<<10)
	want := chunksOf(t, im, ino, next, next+384<<10)
	asked := len(want)
	eventually(t, "the chunks ahead to be asked for", func() bool { n, _ := h.counts(); return n >= asked })
	h.mu.Lock()
	if diff := cmp.Diff(want, h.asked, cmpopts.SortSlices(func(a, b chunk.ID) bool { return bytes.Compare(a[:], b[:]) < 0 })); diff != "" {
		t.Errorf("asked for ahead (-want +got):\n%s", diff)
	}
	h.mu.Unlock()
	read(6 << 20)
	eventually(t, "the chunks ahead of a reader that jumped to be given up", func() bool { _, n := h.counts(); return n == asked })
	if n, _ := h.counts(); n != asked {
		t.Errorf("%d more chunks were asked for after the jump", n-asked)
	}
	end()
}

func TestReadaheadIsBoundedAndEndsWithTheMount(t *testing.T) {
	m := newMemory()
	im, ino := largeFile(t, m)
	h := &hints{release: make(chan struct{})}
	fs, end := mount.NewFileSystemAhead(im, m, h)
	for off := uint64(0); off < 4<<20; off += 128 << 10 {
		in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: uint64(ino) + 1}, Offset: off, Size: 128 << 10}
		if _, status := fs.Read(nil, in, make([]byte, in.Size)); !status.Ok() {
			t.Fatalf("read at %d: %v", off, status)
		}
	}
	if n, _ := h.counts(); n > 32 {
		t.Errorf("%d chunks in flight ahead", n)
	}
	end() // returns when nothing is asked for any more
	if asked, ended := h.counts(); asked == 0 || ended != asked {
		t.Errorf("%d of %d chunks were given up", ended, asked)
	}
}

func TestTouchedChunksAreInTheOrderOfTheReads(t *testing.T) {
	needFUSE(t)
	m := newMemory()
	im := build(t, m, dir(0o755, map[string]*item{"a": file(0o644, noise(1, 100<<10)), "b": file(0o644, noise(2, 100<<10))}))
	r := start(t, im, m)
	var want []uint32
	read := map[uint32]bool{}
	for _, name := range []string{"b", "a", "b"} {
		if _, err := os.ReadFile(filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
		ino, err := im.Resolve([]byte("/" + name))
		if err != nil {
			t.Fatal(err)
		}
		first := len(want)
		for p, ok := im.PieceAt(ino, 0); ok; p, ok = im.PieceAt(ino, p.Offset+p.Length) {
			if !read[p.Chunk] {
				read[p.Chunk] = true
				want = append(want, p.Chunk)
			}
		}
		// Within a file the kernel's requests may overtake one another.
		slices.Sort(want[first:])
		got := r.Touched(first)
		slices.Sort(got)
		if !slices.Equal(got, want[first:]) {
			t.Errorf("%s: newly touched %v, want %v", name, got, want[first:])
		}
	}
	got := r.Touched(0)
	if rest := r.Touched(len(got)); len(rest) != 0 {
		t.Errorf("touched besides: %v", rest)
	}
}
