package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/mount"
)

// chunkOf returns the chunk that holds offset off of an item.
func chunkOf(t testing.TB, im *flist.Image, it *item, off uint64) chunk.ID {
	t.Helper()
	p, ok := im.PieceAt(it.ino, off)
	if !ok || p.Hole {
		t.Fatalf("no chunk at %d", off)
	}
	id, _ := im.Chunk(p.Chunk)
	return id
}

// twoFiles is an image with two large files, and its items.
func twoFiles(t testing.TB, m *memory) (im *flist.Image, a, b *item) {
	a, b = file(0o644, noise(10, 3*cutSize)), file(0o644, noise(11, 3*cutSize))
	return build(t, m, dir(0o755, map[string]*item{"a": a, "b": b})), a, b
}

func TestConcurrentReadersSeeTheSource(t *testing.T) {
	big := file(0o644, nil)
	for i := range 40 {
		big.parts = append(big.parts, part{data: noise(uint64(i), 1+i*5_003)}, part{hole: uint64(i * 4_001)})
	}
	for range 3000 { // more pieces than fit into one answer uncopied
		big.parts = append(big.parts, part{data: []byte("x")}, part{hole: 1})
	}
	big.parts = append(big.parts, part{data: []byte("tail")})
	want := big.content()
	m := newMemory()
	r := start(t, build(t, m, dir(0o755, map[string]*item{"big": big})), m)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			f, err := os.Open(r.dir + "/big")
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for range 60 {
				if w == 0 { // make the kernel ask again
					unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
				}
				off := rng.IntN(len(want) + 1000)
				buf := make([]byte, 1+rng.IntN(300_000))
				n, err := f.ReadAt(buf, int64(off))
				part := want[min(off, len(want)):min(off+len(buf), len(want))]
				if err != nil && err != io.EOF || !bytes.Equal(buf[:n], part) {
					t.Errorf("read %d bytes at %d: %d bytes, %v; want %d", len(buf), off, n, err, len(part))
				}
			}
		})
	}
	wg.Wait()
}

func TestMissingChunkIsAnErrorUntilItComes(t *testing.T) {
	m := newMemory()
	im, a, b := twoFiles(t, m)
	const patience = 300 * time.Millisecond
	r := start(t, im, m, func(o *mount.Options) { o.ReadTimeout = patience })
	id := chunkOf(t, im, a, cutSize)
	arrive := m.hold(id)
	defer arrive()

	got, err := os.ReadFile(r.dir + "/a")
	if !errors.Is(err, unix.EIO) {
		t.Fatalf("read: %d bytes, %v; want EIO", len(got), err)
	}
	if !bytes.HasPrefix(a.content(), got) {
		t.Error("wrong bytes before the error")
	}
	if lines := r.log.lines("path=/a", id.String(), "asked peer-one and peer-two"); len(lines) != 1 {
		t.Errorf("%d log lines with path, chunk and peers, want 1:\n%v", len(lines), lines)
	}
	if r.Stats().ReadErrors == 0 {
		t.Error("no read error counted")
	}
	if got, err := os.ReadFile(r.dir + "/b"); err != nil || !bytes.Equal(got, b.content()) {
		t.Errorf("another file meanwhile: %d bytes, %v", len(got), err)
	}
	arrive()
	if got, err := os.ReadFile(r.dir + "/a"); err != nil || !bytes.Equal(got, a.content()) {
		t.Errorf("after the chunk came: %d bytes, %v", len(got), err)
	}
}

func TestAllChunksThatDidNotComeInTimeAreRemembered(t *testing.T) {
	m := newMemory()
	im, a, _ := twoFiles(t, m)
	fs := mount.NewFileSystemTimeout(im, m, 100*time.Millisecond)
	var late []uint32
	for _, off := range []uint64{0, 2 * cutSize} {
		defer m.hold(chunkOf(t, im, a, off))()
		p, _ := im.PieceAt(a.ino, off)
		late = append(late, p.Chunk)
	}
	there, _ := im.PieceAt(a.ino, cutSize)
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: uint64(a.ino) + 1}, Size: 3 * cutSize}
	if _, status := fs.Read(nil, in, make([]byte, in.Size)); status != fuse.EIO {
		t.Errorf("read: %v, want EIO", status)
	}
	for _, c := range late {
		if !mount.Stalled(fs, c) {
			t.Errorf("chunk %d is waited for in full again", c)
		}
	}
	if mount.Stalled(fs, there.Chunk) {
		t.Error("a chunk that came is taken for one that did not")
	}
}

func TestChunkThatComesWithinTheTimeIsWaitedFor(t *testing.T) {
	m := newMemory()
	im, a, _ := twoFiles(t, m)
	r := start(t, im, m)
	id := chunkOf(t, im, a, 0)
	arrive := m.hold(id)
	defer arrive()
	go func() {
		for deadline := time.Now().Add(20 * time.Second); m.got(id) == 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		arrive()
	}()
	if got, err := os.ReadFile(r.dir + "/a"); err != nil || !bytes.Equal(got, a.content()) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
}

func TestBadContentIsNeverShown(t *testing.T) {
	for name, spoil := range map[string]func(m *memory, id chunk.ID, data []byte){
		"corrupt": func(m *memory, id chunk.ID, data []byte) {
			m.spoil(id, nil, &chunk.CorruptError{ID: id, Reason: "flipped"})
		},
		"not found": func(m *memory, id chunk.ID, data []byte) {
			m.spoil(id, nil, fmt.Errorf("asked nobody: %w", chunk.ErrNotFound))
		},
		"short": func(m *memory, id chunk.ID, data []byte) { m.spoil(id, data[:len(data)-1], nil) },
		"long":  func(m *memory, id chunk.ID, data []byte) { m.spoil(id, append(bytes.Clone(data), 0), nil) },
		"empty": func(m *memory, id chunk.ID, data []byte) { m.spoil(id, nil, nil) },
		"cancelled": func(m *memory, id chunk.ID, data []byte) {
			m.spoil(id, nil, fmt.Errorf("the source: %w", os.ErrClosed))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			im, a, _ := twoFiles(t, m)
			r := start(t, im, m)
			id := chunkOf(t, im, a, 2*cutSize)
			data, _ := m.Get(t.Context(), id)
			spoil(m, id, data)
			got, err := os.ReadFile(r.dir + "/a")
			if !errors.Is(err, unix.EIO) || len(got) > 2*cutSize || !bytes.HasPrefix(a.content(), got) {
				t.Errorf("read: %d bytes, %v; want EIO", len(got), err)
			}
			m.spoil(id, data, nil)
			if got, err := os.ReadFile(r.dir + "/a"); err != nil || !bytes.Equal(got, a.content()) {
				t.Errorf("after repair: %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestInterruptedReaderEnds(t *testing.T) {
	m := newMemory()
	im, a, _ := twoFiles(t, m)
	r := start(t, im, m, func(o *mount.Options) { o.ReadTimeout = time.Hour })
	id := chunkOf(t, im, a, 0)
	arrive := m.hold(id)
	defer arrive()
	for _, program := range [][]string{
		{"cat", r.dir + "/a"},
		{"dd", "if=" + r.dir + "/a", "iflag=direct", "bs=4096", "of=/dev/null"}, // the process itself waits for the READ
	} {
		asked := m.got(id)
		cmd := exec.Command(program[0], program[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the chunk is asked for", func() bool { return m.got(id) > asked || program[0] == "cat" && asked > 0 })
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Errorf("%s does not end", program[0])
			arrive()
			<-done
		}
	}
	if r.Stats().Interrupted == 0 {
		t.Error("no interrupted read counted")
	}
	arrive()
	if got, err := os.ReadFile(r.dir + "/a"); err != nil || !bytes.Equal(got, a.content()) {
		t.Errorf("afterwards: %d bytes, %v", len(got), err)
	}
}
