package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flistnode/flistnode/mount"
	"github.com/flistnode/flistnode/node/api"
)

// oneRun runs a node on data while do runs, and then stops it in order.
func oneRun(t *testing.T, data string, do func(*Node)) {
	t.Helper()
	cfg := testConfig(data)
	cfg.KeepMounts = true
	n, err := New(t.Context(), cfg, testLog(t, "n"))
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	defer func() {
		stop()
		if err := errors.Join(<-done, n.Close()); err != nil {
			t.Errorf("node ended with: %v", err)
		}
		noTablesLeft(t, data)
	}()
	do(n)
}

func TestMountsComeBackUntilTheyAreUnmounted(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE here:", err)
	}
	data, at, gone := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "gone")
	must(t, os.Mkdir(gone, 0o755))
	dir, files := sample(t, 12)
	ctx := t.Context()
	oneRun(t, data, func(n *Node) {
		cid := packed(t, n, dir)
		for _, at := range []string{at, gone} {
			_, err := n.Mount(ctx, api.MountRequest{FList: cid, Dir: at, Name: "it"})
			if errors.Is(err, syscall.EPERM) {
				t.Skip("mounting is not allowed here:", err)
			}
			must(t, err)
		}
	})
	if left, err := os.ReadDir(at); err != nil || len(left) > 0 {
		t.Errorf("the node has stopped, and its mount shows %v, %v", left, err)
	}
	must(t, os.Remove(gone))
	oneRun(t, data, func(n *Node) {
		mounts, err := n.Mounts(ctx)
		if err != nil || len(mounts) != 2 {
			t.Fatalf("mounts after a restart: %+v, %v", mounts, err)
		}
		for _, m := range mounts {
			if m.Name != "it" || (m.Problem != "") != (m.Dir == gone) {
				t.Errorf("mount after a restart: %+v", m)
			}
			if m.Dir == gone && !strings.Contains(m.Problem, "does not exist") {
				t.Errorf("why it is not there: %s", m.Problem)
			}
		}
		must(t, mount.NoPoll(at)) // this process reads what it serves
		if got, err := os.ReadFile(filepath.Join(at, "etc/hostname")); err != nil || string(got) != string(files["/etc/hostname"]) {
			t.Errorf("read after a restart: %q, %v", got, err)
		}
		must(t, n.Unmount(ctx, at, false))
		must(t, n.Unmount(ctx, gone, false)) // forgets it
		if err := n.Unmount(ctx, gone, false); err == nil {
			t.Error("what was forgotten was unmounted once more")
		}
	})
	oneRun(t, data, func(n *Node) {
		if mounts, err := n.Mounts(ctx); err != nil || len(mounts) != 0 {
			t.Errorf("mounts came back that were unmounted: %+v, %v", mounts, err)
		}
	})
}

func TestMountTakenAwayByOthersDoesNotComeBack(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE here:", err)
	}
	data, at := t.TempDir(), t.TempDir()
	dir, _ := sample(t, 13)
	oneRun(t, data, func(n *Node) {
		_, err := n.Mount(t.Context(), api.MountRequest{FList: packed(t, n, dir), Dir: at})
		if errors.Is(err, syscall.EPERM) {
			t.Skip("mounting is not allowed here:", err)
		}
		must(t, err)
		must(t, syscall.Unmount(at, 0))
		waitFor(t, "the record to go", func() bool {
			records, err := n.remembered()
			return err == nil && len(records) == 0
		})
	})
}
