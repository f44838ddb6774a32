package mount_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/mount"
)

// isMounted reports whether something is mounted on dir.
func isMounted(t testing.TB, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+dir+" ")
}

func TestUnmountOnRequest(t *testing.T) {
	m := newMemory()
	im, _, _ := twoFiles(t, m)
	r := start(t, im, m)
	b, err := os.ReadFile("/proc/self/mountinfo")
	if want := " - fuse.flistnode flistnode:" + im.CID().String() + " ro,"; err != nil || !strings.Contains(string(b), want) {
		t.Errorf("mountinfo has no %q (%v)", want, err)
	}
	if err := r.Unmount(false); err != nil {
		t.Fatal(err)
	}
	if err := r.ended(t); err != nil {
		t.Errorf("Run = %v", err)
	}
	if err := r.Unmount(false); err != nil {
		t.Errorf("second Unmount = %v", err)
	}
	if isMounted(t, r.dir) {
		t.Error("still mounted")
	}
}

func TestBusyMountNamesItsUsers(t *testing.T) {
	m := newMemory()
	im, a, _ := twoFiles(t, m)
	r := start(t, im, m)
	f, err := os.Open(r.dir + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var busy *mount.BusyError
	err = r.Unmount(false)
	if !errors.As(err, &busy) || len(busy.Holders) != 1 || busy.Holders[0].PID != os.Getpid() || busy.Holders[0].Use != "open file "+r.dir+"/a" {
		t.Fatalf("Unmount = %v (%+v)", err, busy)
	}
	if !isMounted(t, r.dir) {
		t.Error("no longer mounted")
	}
	// Lazily it goes out of the tree, and the file is served on.
	if err := r.Unmount(true); err != nil {
		t.Fatal(err)
	}
	if isMounted(t, r.dir) {
		t.Error("still mounted")
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != string(a.content()) {
		t.Errorf("open file after lazy unmount: %d bytes, %v", len(got), err)
	}
	f.Close()
	if err := r.ended(t); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestOnlyFlistsAreUnmounted(t *testing.T) {
	needFUSE(t)
	dir := t.TempDir()
	if err := mount.Unmount(dir, false); !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("a plain directory: %v", err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := mount.Unmount(dir, true); !errors.Is(err, mount.ErrNotMounted) || !isMounted(t, dir) {
		t.Errorf("a tmpfs: %v", err)
	}
}

func TestMountInsideMakesBusy(t *testing.T) {
	m := newMemory()
	r := start(t, build(t, m, zoo()), m)
	inner := filepath.Join(r.dir, "emptydir")
	if err := unix.Mount("none", inner, "tmpfs", 0, ""); err != nil {
		t.Skipf("tmpfs: %v", err)
	}
	defer unix.Unmount(inner, unix.MNT_DETACH)
	var busy *mount.BusyError
	if err := r.Unmount(false); !errors.As(err, &busy) || len(busy.Mounts) != 1 || busy.Mounts[0] != inner {
		t.Errorf("Unmount = %v", err)
	}
}

func TestEndOfContextUnmountsEvenWhenBusy(t *testing.T) {
	for name, busy := range map[string]bool{"idle": false, "busy": true} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			im, a, _ := twoFiles(t, m)
			r := start(t, im, m)
			arrive := m.hold(chunkOf(t, im, a, 0))
			defer arrive()
			reader := make(chan error, 1)
			if busy {
				f, err := os.Open(r.dir + "/a")
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				go func() {
					_, err := io.ReadAll(f)
					reader <- err
				}()
				eventually(t, "a read waits", func() bool { return r.Stats().ChunkGets > 0 })
			}
			r.stop()
			if err := r.ended(t); err != nil {
				t.Errorf("Run = %v", err)
			}
			if isMounted(t, r.dir) {
				t.Error("still mounted")
			}
			if busy {
				if err := <-reader; err == nil {
					t.Error("the blocked read succeeded")
				}
				if len(r.log.lines("taken away while in use", "open file")) != 1 {
					t.Error("no log line about the user")
				}
			}
		})
	}
}

func TestEndOfContextFreesOtherMountNamespaces(t *testing.T) {
	m := newMemory()
	im, _, _ := twoFiles(t, m)
	r := start(t, im, m)
	cmd := exec.Command("unshare", "-m", "sleep", "60") // has its own copy of the mount
	if err := cmd.Start(); err != nil {
		t.Skipf("unshare: %v", err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	eventually(t, "the other namespace is there", func() bool {
		here, _ := os.Readlink("/proc/self/ns/mnt")
		there, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", cmd.Process.Pid))
		return err == nil && here != there
	})
	r.stop()
	if err := r.ended(t); err != nil {
		t.Errorf("Run = %v", err)
	}
	if isMounted(t, r.dir) {
		t.Error("still mounted")
	}
}

func TestSetUIDAndDevicesOnlyOnRequest(t *testing.T) {
	m := newMemory()
	im := build(t, m, zoo())
	for _, allowed := range []bool{false, true} {
		r := start(t, im, m, func(o *mount.Options) { o.SetUID, o.Devices = allowed, allowed })
		var st unix.Statfs_t
		if err := unix.Statfs(r.dir, &st); err != nil {
			t.Fatal(err)
		}
		if nosuid, nodev := st.Flags&unix.ST_NOSUID != 0, st.Flags&unix.ST_NODEV != 0; nosuid == allowed || nodev == allowed {
			t.Errorf("allowed %t: nosuid %t, nodev %t", allowed, nosuid, nodev)
		}
		f, err := os.Open(r.dir + "/null")
		if (err == nil) != allowed {
			t.Errorf("allowed %t: open of a device: %v", allowed, err)
		}
		f.Close()
	}
}
