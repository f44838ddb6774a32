package mount_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/mount"
)

// serveThenDie makes the test binary a process that mounts and waits to be
// killed; see TestStaleMountIsClearedAway.
const serveThenDie = "FLISTNODE_TEST_MOUNT_DIR"

// serveWritable makes that mount writable; it names the private directory.
const serveWritable = "FLISTNODE_TEST_MOUNT_PRIVATE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveThenDie); dir != "" {
		serve(dir)
	}
	if socket := os.Getenv(serveMachines); socket != "" {
		serveVirtiofs(socket)
	}
	code := m.Run()
	if left := leaked(); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked waits for the goroutines of mounts to end and returns those that do
// not.
func leaked() string {
	var left string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		left = ""
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "go-fuse") || strings.Contains(g, "flistnode/mount.") {
				left += g + "\n"
			}
		}
		if left == "" {
			break
		}
	}
	return left
}

// needFUSE skips where nothing can be mounted.
func needFUSE(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, devices and trusted xattrs are looked at")
	}
}

// running is a mount under test.
type running struct {
	*mount.Mount
	dir  string
	log  *logged
	stop context.CancelFunc // ends Run's context
	done chan error         // Run's result
}

// start mounts im; the mount is gone when the test ends, however it ends.
func start(t testing.TB, im *flist.Image, src *memory, change ...func(*mount.Options)) *running {
	t.Helper()
	needFUSE(t)
	opts := mount.Options{Dir: t.TempDir(), ReadTimeout: 10 * time.Second}
	log := &logged{}
	opts.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, f := range change {
		f(&opts)
	}
	m, err := mount.New(im, src, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Mount: m, dir: opts.Dir, log: log, stop: stop, done: make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- m.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Error("Run does not return")
		}
		for unix.Unmount(opts.Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
			t.Errorf("%s was still mounted", opts.Dir)
		}
	})
	select {
	case <-m.Ready():
	case err := <-r.done:
		t.Fatalf("Run: %v", err)
	}
	if err := mount.NoPoll(opts.Dir); err != nil { // this process reads what it serves
		t.Fatal(err)
	}
	return r
}

// ended waits for Run and returns its error.
func (r *running) ended(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("Run does not return")
		return nil
	}
}

// logged is a log that can be read while it is written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines returns the lines that contain all of words.
func (l *logged) lines(words ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.buf.String()) {
		has := true
		for _, w := range words {
			has = has && strings.Contains(line, w)
		}
		if has {
			found = append(found, line)
		}
	}
	return found
}

// eventually polls until ok is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
