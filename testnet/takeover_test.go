package testnet_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
)

// reread reads files of a mount over and over, past the page cache, and keeps
// the first difference and the longest pause.
type reread struct {
	dir   string
	want  map[string][]byte
	stop  atomic.Bool
	all   sync.WaitGroup
	reads atomic.Int64
	pause atomic.Int64 // nanoseconds
	wrong chan error
}

func startReading(dir string, want map[string][]byte) *reread {
	r := &reread{dir: dir, want: want, wrong: make(chan error, len(want))}
	for name := range want {
		r.all.Go(func() {
			for !r.stop.Load() {
				if err := r.once(name); err != nil {
					r.wrong <- err
					return
				}
			}
		})
	}
	return r
}

func (r *reread) once(name string) error {
	f, err := os.Open(filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	buf, want := make([]byte, 256<<10), r.want[name]
	for len(want) > 0 {
		began := time.Now()
		n, err := io.ReadFull(f, buf[:min(len(buf), len(want))])
		for took, old := int64(time.Since(began)), r.pause.Load(); took > old && !r.pause.CompareAndSwap(old, took); {
			old = r.pause.Load()
		}
		if err != nil || !bytes.Equal(buf[:n], want[:n]) {
			return fmt.Errorf("%s, %d bytes before the end: %d bytes read, %w", name, len(want), n, err)
		}
		want = want[n:]
		r.reads.Add(1)
	}
	return nil
}

// waitMore waits until readers have read a good deal more.
func (r *reread) waitMore(t *testing.T) {
	t.Helper()
	target := r.reads.Load() + 100
	for deadline := time.Now().Add(time.Minute); r.reads.Load() < target; time.Sleep(5 * time.Millisecond) {
		if len(r.wrong) > 0 || time.Now().After(deadline) {
			t.Fatalf("readers do not go on: %d of %d; %v", r.reads.Load(), target, r.end())
		}
	}
}

// end stops the readers and returns what went wrong.
func (r *reread) end() error {
	r.stop.Store(true)
	r.all.Wait()
	select {
	case err := <-r.wrong:
		return err
	default:
		return nil
	}
}

func randomFiles(t *testing.T, count, size int) (dir string, files map[string][]byte) {
	t.Helper()
	dir, files = t.TempDir(), map[string][]byte{}
	rnd := rand.NewChaCha8([32]byte{5})
	for i := range count {
		data := make([]byte, size)
		_, _ = rnd.Read(data)
		name := fmt.Sprintf("f%d", i)
		files[name] = data
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, files
}

// needResend skips where the kernel cannot send requests again.
func needResend(t *testing.T) {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major < 6 || major == 6 && minor < 9 {
		t.Skip("taking mounts over needs Linux 6.9")
	}
}

// TestMountsOutliveTheirDaemon kills a daemon under readers, starts it again,
// lets it hand over, and starts it again: they wait and see nothing else of it.
func TestMountsOutliveTheirDaemon(t *testing.T) {
	needFUSE(t)
	needResend(t)
	for _, rw := range []bool{false, true} {
		t.Run(fmt.Sprintf("writable=%t", rw), func(t *testing.T) {
			n := network(t, "--cache", "16MiB")
			a := line(t, n, 1)[0]
			dir, files := randomFiles(t, 8, 4<<20)
			cid := pack(t, a, dir)
			target, err := os.MkdirTemp("", "mnt-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = unix.Unmount(target, unix.MNT_DETACH)
				os.Remove(target)
			})
			if _, err := a.Mount(t.Context(), api.MountRequest{FList: cid, Dir: target, ReadWrite: rw}); err != nil {
				t.Fatal(err)
			}
			readers := startReading(target, files)
			defer readers.end()
			for _, end := range []func() error{
				func() error { a.Kill(); return nil },
				func() error { return a.HandOver(t.Context()) },
			} {
				readers.waitMore(t)
				if err := end(); err != nil {
					t.Fatal(err)
				}
				if a, err = n.Start(t.Context(), a.Name); err != nil {
					t.Fatal(err)
				}
				readers.waitMore(t)
				log, err := os.ReadFile(filepath.Join(a.Dir, "log"))
				if err != nil || !strings.Contains(string(log), "mount is taken over") {
					t.Errorf("the mount was not taken over: %v", err)
				}
			}
			if rw {
				if err := os.WriteFile(filepath.Join(target, "new"), []byte("new"), 0o644); err != nil {
					t.Error(err)
				}
			}
			if err := readers.end(); err != nil {
				t.Error(err)
			}
			t.Logf("%d reads, the longest waited %s", readers.reads.Load(), time.Duration(readers.pause.Load()))
			mounts, err := a.Mounts(t.Context())
			if err != nil || len(mounts) != 1 || mounts[0].Dir != target || mounts[0].Problem != "" || mounts[0].ReadWrite != rw || mounts[0].ReadErrors != 0 {
				t.Errorf("mounts: %+v, %v", mounts, err)
			}
			if err := a.Unmount(t.Context(), target, false); err != nil {
				t.Error(err)
			}
			if left, err := filepath.Glob(filepath.Join(a.Data(), "mounts", "*", "*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestLazilyUnmountedFilesSurviveAKill kills a daemon that serves a file of a
// mount that has left the tree.
func TestLazilyUnmountedFilesSurviveAKill(t *testing.T) {
	needFUSE(t)
	needResend(t)
	n := network(t)
	a := line(t, n, 1)[0]
	dir, files := randomFiles(t, 1, 1<<20)
	target := mounted(t, a, pack(t, a, dir))
	// Once a file was closed the kernel no longer asks about that. It would ask
	// when the daemon is started, with f inherited, and there is none to answer.
	if _, err := os.ReadFile(filepath.Join(target, "f0")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(target, "f0"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := a.Unmount(t.Context(), target, true); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	a.Kill()
	if a, err = n.Start(t.Context(), a.Name); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, files["f0"]) {
		t.Errorf("read after the kill: %d bytes, %v", len(got), err)
	}
	if mounts, err := a.Mounts(t.Context()); err != nil || len(mounts) != 1 || !mounts[0].Detached {
		t.Errorf("mounts: %+v, %v", mounts, err)
	}
}
