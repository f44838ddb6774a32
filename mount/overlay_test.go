package mount_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/mount"
)

// needOverlay skips where the kernel has no overlayfs.
func needOverlay(t *testing.T) {
	t.Helper()
	needFUSE(t)
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil || !bytes.Contains(b, []byte("\toverlay\n")) {
		t.Skip("needs overlayfs")
	}
}

func writable(t *testing.T, upper string) (private string, change func(*mount.Options)) {
	private = filepath.Join(t.TempDir(), "private, with: odd \\ name")
	return private, func(o *mount.Options) { o.ReadWrite, o.Upper, o.Private = true, upper, private }
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%s holds %v, %v", dir, left, err)
	}
}

func TestWritableMountThrowsItsChangesAway(t *testing.T) {
	needOverlay(t)
	m := newMemory()
	im, a, _ := twoFiles(t, m)
	private, rw := writable(t, "")
	r := start(t, im, m, rw)
	if got, err := os.ReadFile(r.dir + "/a"); err != nil || !bytes.Equal(got, a.content()) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	for _, err := range []error{
		os.WriteFile(r.dir+"/new", []byte("new"), 0o644),
		os.Truncate(r.dir+"/a", 1),
		os.Remove(r.dir + "/b"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(r.dir + "/a"); err != nil || info.Size() != 1 {
		t.Errorf("a changed file: %v, %v", info, err)
	}
	if err := r.Unmount(false); err != nil {
		t.Fatal(err)
	}
	if err := r.ended(t); err != nil {
		t.Errorf("Run = %v", err)
	}
	empty(t, r.dir)
	empty(t, private)
}

func TestKeptChangesAreThereAtTheNextMount(t *testing.T) {
	needOverlay(t)
	m := newMemory()
	im, _, _ := twoFiles(t, m)
	upper := filepath.Join(t.TempDir(), "upper")
	for round := range 2 {
		_, rw := writable(t, upper)
		r := start(t, im, m, rw)
		if round == 0 {
			if err := os.WriteFile(r.dir+"/new", []byte("new"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(r.dir + "/b"); err != nil {
				t.Fatal(err)
			}
			_, err := mount.New(im, m, mount.Options{Dir: t.TempDir(), ReadWrite: true, Private: t.TempDir(), Upper: upper})
			if !errors.Is(err, unix.EBUSY) {
				t.Errorf("second mount with this upper directory: %v", err)
			}
		}
		if got, err := os.ReadFile(r.dir + "/new"); err != nil || string(got) != "new" {
			t.Errorf("round %d: %q, %v", round, got, err)
		}
		if _, err := os.Stat(r.dir + "/b"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("round %d: removed file: %v", round, err)
		}
		r.stop() // as when the node ends
		if err := r.ended(t); err != nil {
			t.Errorf("Run = %v", err)
		}
		if isMounted(t, r.dir) {
			t.Error("still mounted")
		}
	}
}

func TestImageIsUnmountedWhenOthersUnmountTheOverlay(t *testing.T) {
	needOverlay(t)
	m := newMemory()
	im, a, _ := twoFiles(t, m)
	private, rw := writable(t, "")
	r := start(t, im, m, rw)
	f, err := os.Open(r.dir + "/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(r.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(a.content()))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, a.content()) {
		t.Errorf("an open file is not served on: %v", err)
	}
	f.Close()
	if err := r.ended(t); err != nil {
		t.Errorf("Run = %v", err)
	}
	empty(t, private)
}

func TestImageCannotSteerTheOverlay(t *testing.T) {
	needOverlay(t)
	m := newMemory()
	hostile := func(it *item, name, value string) *item {
		it.Xattrs = []flist.Xattr{{Name: []byte(name), Value: []byte(value)}}
		return it
	}
	secret := file(0o600, []byte("not under this name"))
	root := dir(0o711, map[string]*item{
		"secret":   secret,
		"redirect": hostile(file(0o644, []byte("mine")), "trusted.overlay.redirect", "/secret"),
		"meta":     hostile(file(0o644, []byte("mine too")), "trusted.overlay.metacopy", ""),
		"opaque":   hostile(dir(0o755, map[string]*item{"in": file(0o644, []byte("in"))}), "trusted.overlay.opaque", "y"),
		"whiteout": special(flist.ModeChar|0o644, 0),
		"plain":    hostile(file(0o644, nil), "user.plain", "v"),
	})
	_, rw := writable(t, "")
	r := start(t, build(t, m, root), m, rw)
	for path, want := range map[string]string{"redirect": "mine", "meta": "mine too", "opaque/in": "in"} {
		if got, err := os.ReadFile(filepath.Join(r.dir, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(r.dir+"/plain", "user.plain", buf); err != nil || string(buf[:n]) != "v" {
		t.Errorf("a plain xattr: %q, %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Getxattr(r.dir+"/redirect", "trusted.overlay.redirect", buf); err == nil && string(buf[:n]) != "/secret" {
		t.Errorf("xattr of the image: %q", buf[:n])
	}
	if n, err := unix.Listxattr(r.dir+"/redirect", buf); err != nil || strings.Contains(string(buf[:n]), "overlay.overlay") {
		t.Errorf("xattrs: %q, %v", buf[:max(n, 0)], err)
	}
	if len(r.log.lines("whiteouts")) != 1 {
		t.Error("the log does not tell of the whiteout")
	}
	if info, err := os.Stat(r.dir); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the root: %v, %v", info, err)
	}
}

func TestStaleWritableMountIsClearedAway(t *testing.T) {
	needOverlay(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, private := t.TempDir(), t.TempDir()
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serveThenDie+"="+dir, serveWritable+"="+private)
	startAndKill(t, cmd)
	m := newMemory()
	im, a, _ := twoFiles(t, m)
	_, rw := writable(t, "")
	r := start(t, im, m, rw, func(o *mount.Options) { o.Dir = dir })
	if got, err := os.ReadFile(r.dir + "/a"); err != nil || len(got) != len(a.content()) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(b), private) {
		t.Error("the image of the stale mount is still mounted")
	}
}
