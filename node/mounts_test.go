package node

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flistnode/flistnode/mount"
	"github.com/flistnode/flistnode/node/api"
)

func TestMountedFilesAreThoseThatWerePacked(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE here:", err)
	}
	a := startNode(t, "a", nil)
	dir, files := sample(t, 8)
	cid := packed(t, a, dir)
	b := startNode(t, "b", nil, a)
	at := t.TempDir()
	ctx := t.Context()
	info, err := b.Mount(ctx, api.MountRequest{FList: cid, Dir: at})
	if errors.Is(err, syscall.EPERM) {
		t.Skip("mounting is not allowed here:", err)
	}
	must(t, err)
	must(t, mount.NoPoll(at)) // this process reads what it serves
	for path, want := range files {
		got, err := os.ReadFile(filepath.Join(at, path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes, %v; want %d bytes", path, len(got), err, len(want))
		}
	}
	if mounts, err := b.Mounts(ctx); err != nil || len(mounts) != 1 || mounts[0].FList != cid || mounts[0].Dir != info.Dir {
		t.Errorf("mounts: %+v, %v", mounts, err)
	}
	if _, err := b.Mount(ctx, api.MountRequest{FList: cid, Dir: at}); api.CodeOf(err) != api.Busy {
		t.Errorf("second mount: %v (%s)", err, api.CodeOf(err))
	}
	if err := b.Remove(ctx, cid); api.CodeOf(err) != api.Busy {
		t.Errorf("removal of a mounted flist: %v", err)
	}
	held, err := os.Open(filepath.Join(at, "empty"))
	must(t, err)
	if err := b.Unmount(ctx, at, false); api.CodeOf(err) != api.Busy {
		t.Errorf("unmount in use: %v", err)
	}
	must(t, held.Close())
	must(t, b.Unmount(ctx, at, false))
	if mounts, err := b.Mounts(ctx); err != nil || len(mounts) != 0 {
		t.Errorf("mounts after unmount: %+v, %v", mounts, err)
	}
	if left, err := os.ReadDir(at); err != nil || len(left) != 0 {
		t.Errorf("mount point holds %v, %v", left, err)
	}
	// The second one is taken away when the node ends: its cleanup checks that.
	_, err = b.Mount(ctx, api.MountRequest{FList: cid, Dir: at})
	must(t, err)
	t.Cleanup(func() { // runs before the node's own
		if left, err := os.ReadDir(at); err != nil || len(left) == 0 {
			t.Errorf("mounted again: %v, %v", left, err)
		}
	})
}

func TestReadOfAChunkNobodyHasFailsAfterABoundedWaitAndSaysWhy(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE here:", err)
	}
	a := startNode(t, "a", nil)
	dir, files := sample(t, 11)
	cid := packed(t, a, dir)
	im, err := a.load(t.Context(), cid)
	must(t, err)
	defer im.Close()
	ino, err := im.Resolve([]byte("/usr/lib/large"))
	must(t, err)
	piece, _ := im.PieceAt(ino, 0)
	id, _ := im.Chunk(piece.Chunk)
	must(t, a.store.Delete(t.Context(), id))

	var said logged
	short := func(c *Config) { c.ReadTimeout, c.FetchTimeout = time.Second, time.Second }
	b := startLogged(t, "b", slog.New(slog.NewTextHandler(&said, nil)), short, a)
	at := t.TempDir()
	_, err = b.Mount(t.Context(), api.MountRequest{FList: cid, Dir: at})
	if errors.Is(err, syscall.EPERM) {
		t.Skip("mounting is not allowed here:", err)
	}
	must(t, err)
	must(t, mount.NoPoll(at)) // this process reads what it serves
	if _, err := os.ReadFile(filepath.Join(at, "/usr/lib/large")); !errors.Is(err, syscall.EIO) {
		t.Errorf("read of a chunk nobody has: %v", err)
	}
	for _, want := range []string{"/usr/lib/large", id.String(), a.host.ID().String()} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log does not name %s:\n%s", want, said.String())
		}
	}
	if got, err := os.ReadFile(filepath.Join(at, "/etc/hostname")); err != nil || !bytes.Equal(got, files["/etc/hostname"]) {
		t.Errorf("read of another file: %q, %v", got, err)
	}
}

// logged collects what is logged.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestBadMountPointsAreRefused(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE here:", err)
	}
	n := startNode(t, "a", nil)
	dir, _ := sample(t, 9)
	cid := packed(t, n, dir)
	inData := filepath.Join(n.cfg.Data, "mnt")
	must(t, os.Mkdir(inData, 0o700))
	for _, tc := range []struct {
		name, dir string
		code      api.Code
	}{
		{"missing", filepath.Join(dir, "missing"), api.NoEntry},
		{"not empty", dir, api.Exists},
		{"a file", filepath.Join(dir, "empty"), api.Invalid},
		{"in the data directory", inData, api.Invalid},
		{"relative", "mnt", api.Invalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := n.Mount(t.Context(), api.MountRequest{FList: cid, Dir: tc.dir})
			if err == nil || api.CodeOf(err) != tc.code {
				t.Errorf("error %v has code %s, want %s", err, api.CodeOf(err), tc.code)
			}
		})
	}
	if err := n.Unmount(t.Context(), dir, false); err == nil {
		t.Error("unmount of a directory that is no mount succeeded")
	}
}
