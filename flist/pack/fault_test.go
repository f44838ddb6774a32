package pack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/pack"
)

// largeNoise is more than a run with the least memory holds at a time, so that
// chunks of a file must be put before the file is read to its end.
const largeNoise = 24 << 20

// hookSink calls a function with the number of each Put.
type hookSink struct {
	memory
	mu  sync.Mutex
	n   int
	put func(n int) error
}

func newHook(put func(n int) error) *hookSink {
	return &hookSink{memory: *newMemory(), put: put}
}

func (h *hookSink) Put(ctx context.Context, p chunk.Packed) error {
	h.mu.Lock()
	err := h.put(h.n)
	h.n++
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.memory.Put(ctx, p)
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// scribble changes something in every chunk of a file of largeNoise bytes, so
// that none of them has been put before when the file is read again.
func scribble(path string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	mark := binary.BigEndian.AppendUint64(nil, uint64(n))
	for at := int64(0); at < largeNoise && err == nil; at += 32 << 10 {
		_, err = f.WriteAt(mark, at)
	}
	return errors.Join(err, f.Close())
}

func TestChangedFileIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	content := noise(1, largeNoise)
	write(t, dir+"/large", content)
	sink := newHook(func(n int) error {
		if n == 0 {
			return appendTo(dir+"/large", "more")
		}
		return nil
	})
	res, err := pack.Dir(t.Context(), dir, sink, pack.Options{Workers: 1, MemoryBytes: 1})
	must(t, err)
	im, err := flist.Load(t.Context(), sink, res.CID)
	must(t, err)
	digests, err := im.Digests(t.Context(), sink)
	must(t, err)
	ino, err := im.Resolve([]byte("/large"))
	must(t, err)
	if sum, _ := digests.Of(ino); sum != chunk.Sum(append(content, "more"...)) {
		t.Errorf("the image has %d bytes of it, not the file as it ended up", im.Attr(ino).Size)
	}
}

func TestFileThatKeepsChangingIsNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a large", noise(1, largeNoise))
	write(t, dir+"/b", []byte("b"))
	hook := func(n int) error {
		if n%16 > 0 {
			return nil
		}
		return scribble(dir+"/a large", n)
	}
	_, err := pack.Dir(t.Context(), dir, newHook(hook), pack.Options{MemoryBytes: 1})
	var unreadable *pack.UnreadableError
	if !errors.As(err, &unreadable) || !errors.Is(err, pack.ErrChanging) || unreadable.Problems[0].Path != "/a large" {
		t.Fatalf("error %v, want one that names the file", err)
	}
	res, err := pack.Dir(t.Context(), dir, newHook(hook), pack.Options{MemoryBytes: 1, IgnoreUnreadable: true})
	must(t, err)
	if res.Entries != 1 || len(res.Unreadable) != 1 {
		t.Errorf("%d entries, %d problems; want 1 and 1", res.Entries, len(res.Unreadable))
	}
}

func TestVanishedEntriesAreNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/large", noise(1, largeNoise))
	for _, n := range []string{"file", "dir/file", "turns into a link", "turns into a file/x"} {
		write(t, dir+"/a/z/"+n, []byte("x"))
	}
	sink := newHook(func(n int) error {
		if n > 0 {
			return nil
		}
		z := dir + "/a/z/"
		return errors.Join(os.Remove(z+"file"), os.RemoveAll(z+"dir"), os.Remove(z+"turns into a link"),
			os.Symlink("/etc/passwd", z+"turns into a link"), os.RemoveAll(z+"turns into a file"),
			os.WriteFile(z+"turns into a file", nil, 0o644))
	})
	// While the large file is read, the walk gets a few directories ahead:
	// it has listed z when its first chunk is put only by the pause.
	listed := make(chan struct{})
	inner := sink.put
	sink.put = func(n int) error {
		if n == 0 {
			<-listed
		}
		return inner(n)
	}
	go func() {
		defer close(listed)
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if openIn(dir + "/a/z/turns into a file") {
				return
			}
		}
	}()
	res, err := pack.Dir(t.Context(), dir, sink, pack.Options{Workers: 1, MemoryBytes: 1, IgnoreUnreadable: true})
	must(t, err)
	var paths []string
	for _, p := range res.Unreadable {
		paths = append(paths, p.Path)
	}
	if want := []string{"/a/z/dir", "/a/z/file", "/a/z/turns into a file", "/a/z/turns into a link"}; !slices.Equal(paths, want) {
		t.Errorf("problems at %q, want %q", paths, want)
	}
	_, err = flist.Load(t.Context(), sink, res.CID)
	must(t, err)
}

// openIn reports whether this process has path open.
func openIn(path string) bool {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return false
	}
	for _, e := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target == path {
			return true
		}
	}
	return false
}

const unprivilegedEnv = "FLISTNODE_TEST_UNPRIVILEGED_DIR"

func TestUnreadableEntriesAreNamed(t *testing.T) {
	dir := os.Getenv(unprivilegedEnv)
	if dir == "" && os.Geteuid() == 0 {
		runUnprivileged(t)
		return
	}
	if dir == "" {
		dir = t.TempDir()
		makeUnreadable(t, dir)
	}
	_, err := pack.Dir(t.Context(), dir, newMemory(), pack.Options{})
	var unreadable *pack.UnreadableError
	if !errors.As(err, &unreadable) || !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("error %v, want an UnreadableError", err)
	}
	var paths []string
	for _, p := range unreadable.Problems {
		paths = append(paths, p.Path)
	}
	if want := []string{"/closed file", "/closed dir", "/unsearchable/x"}; !slices.Equal(paths, want) {
		t.Errorf("problems at %q, want %q", paths, want)
	}
	m := newMemory()
	res, err := pack.Dir(t.Context(), dir, m, pack.Options{IgnoreUnreadable: true})
	must(t, err)
	im, err := flist.Load(t.Context(), m, res.CID)
	must(t, err)
	for path, want := range map[string]bool{"/closed file": false, "/closed dir": true, "/closed dir/y": false, "/open": true} {
		if _, err := im.Resolve([]byte(path)); (err == nil) != want {
			t.Errorf("%s is in the image: %v, want %v", path, err == nil, want)
		}
	}
}

func makeUnreadable(t *testing.T, dir string) {
	write(t, dir+"/open", []byte("x"))
	write(t, dir+"/closed file", []byte("x"))
	write(t, dir+"/closed dir/y", []byte("x"))
	write(t, dir+"/unsearchable/x", []byte("x"))
	for path, mode := range map[string]os.FileMode{"/closed file": 0, "/closed dir": 0, "/unsearchable": 0o444} {
		must(t, os.Chmod(dir+path, mode))
		t.Cleanup(func() { os.Chmod(dir+path, 0o755) })
	}
}

// runUnprivileged runs the test again in a process that gives up root.
func runUnprivileged(t *testing.T) {
	dir, err := os.MkdirTemp("", "pack")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	makeUnreadable(t, dir)
	cmd := exec.Command(os.Args[0], "-test.run=^TestUnreadableEntriesAreNamed$", "-test.v")
	cmd.Env = append(os.Environ(), unprivilegedEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Fatalf("%v:\n%s", err, out)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(unprivilegedEnv) != "" && os.Geteuid() == 0 {
		err := errors.Join(unix.Setgroups(nil), unix.Setresgid(65534, 65534, 65534), unix.Setresuid(65534, 65534, 65534),
			unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)) // else /proc/self belongs to root
		if err != nil {
			slog.Error("give up root", "err", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(fds)
}

// settled waits until no more goroutines and files are there than before.
func settled(t *testing.T, goroutines, files int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > goroutines || openFiles(t) > files {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines and %d files are left, there were %d and %d",
				runtime.NumGoroutine(), openFiles(t), goroutines, files)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestErrorsEndTheRun(t *testing.T) {
	dir := t.TempDir()
	for i := range 10 {
		write(t, dir+"/d/"+strings.Repeat("x", i+1), noise(uint64(i), 4<<20))
		write(t, dir+"/e/f/"+strings.Repeat("x", i+1), noise(uint64(i), 4<<10))
	}
	for _, at := range []int{0, 5, 30} {
		goroutines, files := runtime.NumGoroutine(), openFiles(t)
		_, err := pack.Dir(t.Context(), dir, newHook(func(n int) error {
			if n >= at {
				return unix.ENOSPC
			}
			return nil
		}), pack.Options{})
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("a full disk at chunk %d: %v", at, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err = pack.Dir(ctx, dir, newHook(func(n int) error {
			if n == at {
				cancel()
			}
			return nil
		}), pack.Options{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at chunk %d: %v", at, err)
		}
		cancel()
		settled(t, goroutines, files)
	}
}

func TestBadArguments(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", nil)
	for name, c := range map[string]struct {
		dir  string
		opts pack.Options
		want string
	}{
		"missing":       {dir + "/nowhere", pack.Options{}, "no such file"},
		"not a dir":     {dir + "/file", pack.Options{}, "not a directory"},
		"empty pattern": {dir, pack.Options{Exclude: []string{"/"}}, "names nothing"},
		"bad pattern":   {dir, pack.Options{Exclude: []string{"a[b"}}, "malformed"},
		"no temp dir":   {dir, pack.Options{TempDir: dir + "/nowhere"}, ""},
	} {
		_, err := pack.Dir(t.Context(), c.dir, newMemory(), c.opts)
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestProgressEndsWithTheTotals(t *testing.T) {
	dir := t.TempDir()
	plainTree(t, dir)
	var last pack.Progress
	res, _ := packed(t, dir, pack.Options{Progress: func(p pack.Progress) { last = p }})
	if last.Entries != res.Entries || last.Files != res.Files || last.Bytes != res.Bytes || last.StoredBytes != res.StoredBytes {
		t.Errorf("last progress %+v, result %+v", last, res)
	}
}
