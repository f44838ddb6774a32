package hold

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holderOf makes the test binary a holder process.
const holderOf = "FLISTNODE_TEST_HOLDER"

func TestMain(m *testing.M) {
	if patience := os.Getenv(holderOf); patience != "" {
		d, err := time.ParseDuration(patience)
		if err == nil {
			err = Serve(os.NewFile(3, "socket"), d)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// open connects to the holder of dir, and starts one that waits so long.
func open(t *testing.T, dir string, patience time.Duration) *Holder {
	t.Helper()
	t.Setenv(holderOf, patience.String())
	h, err := Open(t.Context(), dir, []string{"/proc/self/exe"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// running reports whether a holder of dir can be reached.
func running(t *testing.T, dir string) bool {
	t.Helper()
	h, err := Open(t.Context(), dir, nil)
	if err == nil {
		h.Close()
		return true
	}
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	return false
}

// ends waits until nobody holds the writing side of a pipe any more.
func ends(t *testing.T, r *os.File) {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("the descriptor is still held: %v", err)
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestHeldDescriptorsComeBackToTheNextCaller(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a directory with a name that is too long for the path of a socket, which has 107 bytes at the most")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if running(t, dir) {
		t.Fatal("a holder nobody has started")
	}
	r, w := pipe(t)
	h := open(t, dir, time.Minute)
	if err := h.Keep("k", w); err != nil {
		t.Fatal(err)
	}
	h.Close()
	w.Close()
	again := open(t, dir, time.Minute)
	files, err := again.Take()
	if err != nil || len(files) != 1 || files["k"] == nil {
		t.Fatalf("Take = %v, %v", files, err)
	}
	if _, err := files["k"].WriteString("x"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	files["k"].Close()
	if err := again.Drop("k"); err != nil {
		t.Error(err)
	}
	ends(t, r)
	if err := again.Drop("k"); err != nil {
		t.Errorf("drop of what is not there: %v", err)
	}
	if err := again.Keep("", w); err == nil {
		t.Error("an empty key was taken")
	}
}

func TestHolderEndsWhenNobodyComesBack(t *testing.T) {
	dir := t.TempDir()
	r, w := pipe(t)
	h := open(t, dir, 100*time.Millisecond)
	if err := h.Keep("k", w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	h.Close()
	ends(t, r)
	for deadline := time.Now().Add(30 * time.Second); running(t, dir); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the holder still runs")
		}
	}
}

func TestWhatHasEndedIsLetGo(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "mine"), os.NewFile(uintptr(pair[1]), "theirs")
	h := open(t, t.TempDir(), time.Minute)
	if err := h.Keep("k", theirs); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	mine.Close() // now the held end reports POLLHUP
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		files, err := h.Take()
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			return
		}
		for _, f := range files {
			f.Close()
		}
		if time.Now().After(deadline) {
			t.Fatal("a descriptor whose other side has gone is still held")
		}
	}
}

func TestSystemdGetsDescriptors(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("FDSTORE", "0")
	if FromSystemd() != nil {
		t.Fatal("a store of size 0 was taken")
	}
	t.Setenv("FDSTORE", "10")
	s := FromSystemd()
	if s == nil {
		t.Fatal("no store")
	}
	_, w := pipe(t)
	if err := s.Keep("key", w); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 100), make([]byte, 100)
	n, oobn, _, _, err := l.ReadMsgUnix(b, oob)
	if err != nil || string(b[:n]) != "FDSTORE=1\nFDNAME=key" {
		t.Fatalf("systemd was told %q, %v", b[:max(n, 0)], err)
	}
	f, err := descriptor(oob[:oobn])
	if err != nil || f == nil {
		t.Fatalf("no descriptor came: %v", err)
	}
	f.Close()
	if err := s.Drop("key"); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Read(b); err != nil || string(b[:n]) != "FDSTOREREMOVE=1\nFDNAME=key" {
		t.Errorf("systemd was told %q, %v", b[:max(n, 0)], err)
	}
	if files, err := s.Take(); err != nil || len(files) != 0 {
		t.Errorf("Take = %v, %v", files, err)
	}
}
