package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/flistnode/flistnode/flist/profile"
	"github.com/flistnode/flistnode/mount"
	"github.com/flistnode/flistnode/node/api"
)

// mountOn mounts an flist, or skips the test where that cannot be done.
func mountOn(t *testing.T, n *Node, req api.MountRequest) string {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE here:", err)
	}
	req.Dir = t.TempDir()
	_, err := n.Mount(t.Context(), req)
	if errors.Is(err, syscall.EPERM) {
		t.Skip("mounting is not allowed here:", err)
	}
	must(t, err)
	must(t, mount.NoPoll(req.Dir)) // this process reads what it serves
	return req.Dir
}

// holds reports which data chunks of an flist n has.
func holds(t *testing.T, n *Node, cid string) map[uint32]bool {
	t.Helper()
	im, err := n.load(t.Context(), cid)
	must(t, err)
	defer im.Close()
	held := map[uint32]bool{}
	for _, i := range absent(im.NumChunks(), nil) {
		id, _ := im.Chunk(i)
		here, err := n.store.Has(t.Context(), id)
		must(t, err)
		held[i] = here
	}
	return held
}

func count(held map[uint32]bool) (n int) {
	for _, here := range held {
		if here {
			n++
		}
	}
	return n
}

func TestProfileOfOneNodeIsReplayedByAnother(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, _ := sample(t, 9)
	cid := packed(t, a, dir)
	ctx := t.Context()
	if _, err := a.Profile(ctx, cid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("profile before any was recorded: %v", err)
	}
	if _, err := a.RecordProfile(ctx, cid); api.CodeOf(err) != api.Invalid {
		t.Errorf("recording without a mount: %v", err)
	}
	at := mountOn(t, a, api.MountRequest{FList: cid})
	_, err := os.ReadFile(filepath.Join(at, "usr/lib/large"))
	must(t, err)
	p, err := a.RecordProfile(ctx, cid)
	must(t, err)
	if len(p.Chunks) < 5 || p.Bytes < 3<<20 || p.PackedBytes < 3<<20 {
		t.Fatalf("profile of a file of 3 MiB: %d chunks, %d bytes, %d packed", len(p.Chunks), p.Bytes, p.PackedBytes)
	}

	b := startNode(t, "b", nil, a)
	mountOn(t, b, api.MountRequest{FList: cid})
	waitFor(t, "the profile's chunks, which nobody reads", func() bool {
		held := holds(t, b, cid)
		for _, i := range p.Chunks {
			if !held[i] {
				return false
			}
		}
		return true
	})
	if held := holds(t, b, cid); count(held) != len(p.Chunks) {
		t.Errorf("%d chunks were fetched, the profile has %d", count(held), len(p.Chunks))
	}
	if _, err := b.Profile(ctx, cid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a peer told was kept: %v", err)
	}

	must(t, a.DropProfile(ctx, cid))
	if _, err := a.Profile(ctx, cid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("profile after it was dropped: %v", err)
	}
}

func TestAProfileIsFoundAmongManyPeersWithoutOne(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, _ := sample(t, 9)
	root := packed(t, a, dir)
	want := profile.Profile{2, 0, 1}
	must(t, a.store.PutRecord(profileRecords, root, want.Encode()))
	peers := []*Node{a}
	for i := range 6 {
		n := startNode(t, fmt.Sprintf("other%d", i), nil, a)
		_, err := n.Fetch(t.Context(), api.FetchRequest{FList: root}, nil)
		must(t, err)
		peers = append(peers, n)
	}
	b := startNode(t, "b", nil, peers...)
	waitFor(t, "all peers", func() bool { return len(b.host.Libp2p().Network().Peers()) == len(peers) })
	im, err := b.load(t.Context(), root)
	must(t, err)
	defer im.Close()
	if got := b.findProfile(t.Context(), im); !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func TestPrefetchBringsAllOrNothing(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, _ := sample(t, 10)
	cid := packed(t, a, dir)
	b := startNode(t, "b", nil, a)
	mountOn(t, b, api.MountRequest{FList: cid, Prefetch: api.PrefetchAll})
	waitFor(t, "all chunks", func() bool {
		held := holds(t, b, cid)
		return count(held) == len(held)
	})
	c := startNode(t, "c", nil, a)
	mountOn(t, c, api.MountRequest{FList: cid, Prefetch: api.PrefetchNone})
	if held := holds(t, c, cid); count(held) != 0 {
		t.Errorf("%d chunks came although nothing was read", count(held))
	}
	if _, err := c.Mount(t.Context(), api.MountRequest{FList: cid, Dir: t.TempDir(), Prefetch: "some"}); api.CodeOf(err) != api.Invalid {
		t.Errorf("unknown kind of prefetch: %v", err)
	}
}

func TestMountRecordsItsProfileWhenItEnds(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, _ := sample(t, 11)
	cid := packed(t, a, dir)
	at := mountOn(t, a, api.MountRequest{FList: cid})
	_, err := os.ReadFile(filepath.Join(at, "usr/share/doc/readme"))
	must(t, err)
	must(t, a.Unmount(t.Context(), at, false))
	waitFor(t, "the profile", func() bool {
		p, err := a.Profile(t.Context(), cid)
		return err == nil && len(p.Chunks) > 0
	})
}
