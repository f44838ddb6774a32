package testnet_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/sampletree"
)

// binary builds the real flistnode once; the race detector goes with it when
// the tests have it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "flistnode-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "flistnode")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, module+"/cmd/flistnode")...).CombinedOutput()
	if err != nil {
		err = errors.New(err.Error() + "\n" + string(out))
	}
	return path, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// network returns an empty network that ends with the test.
func network(t *testing.T, args ...string) *testnet.Network {
	t.Helper()
	return networkIn(t, testnet.Config{Args: args})
}

// networkIn is network with a configuration that says nothing of its program
// and directory.
func networkIn(t *testing.T, cfg testnet.Config) *testnet.Network {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its path can be too long for a socket.
	dir, err := os.MkdirTemp("", "net-")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Binary, cfg.Dir = path, dir
	n := testnet.New(cfg)
	t.Cleanup(func() {
		err := n.Stop(context.WithoutCancel(t.Context()))
		if err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			for _, node := range n.Nodes() {
				t.Logf("log of node %s:\n%s", node.Name, node.LogTail())
			}
		}
		os.RemoveAll(dir)
	})
	return n
}

// needFUSE skips a test where there is no FUSE for us.
func needFUSE(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("mounting needs /dev/fuse: ", err)
	}
}

func line(t *testing.T, n *testnet.Network, count int) []*testnet.Node {
	t.Helper()
	nodes, err := n.Line(t.Context(), count)
	if err != nil {
		t.Fatal(err)
	}
	for i, node := range nodes {
		if err := node.WaitPeers(t.Context(), min(i+1, 2, count-1)); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

func sample(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sample")
	if _, err := sampletree.Make(dir, sampletree.Options{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func pack(t *testing.T, n *testnet.Node, dir string) string {
	t.Helper()
	r, err := n.Pack(t.Context(), api.PackRequest{Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r.CID
}

// mounted mounts an flist on n for the rest of the test.
func mounted(t *testing.T, n *testnet.Node, cid string) string {
	t.Helper()
	target, err := os.MkdirTemp("", "mnt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(target, unix.MNT_DETACH) // it fails where the test unmounted already
		os.Remove(target)
	})
	if _, err := n.Mount(t.Context(), api.MountRequest{FList: cid, Dir: target}); err != nil {
		t.Fatal(err)
	}
	return target
}

func equalTrees(t *testing.T, a, b string, opts testnet.CompareOptions) {
	t.Helper()
	cmp, err := testnet.CompareTrees(t.Context(), a, b, opts)
	if err != nil {
		t.Fatal(err)
	}
	if cmp.Entries < 2 || cmp.Total > 0 {
		t.Errorf("%d entries compared, %d differ: %+v", cmp.Entries, cmp.Total, cmp.Differences)
	}
}

var inMount = testnet.CompareOptions{BirthTime: true, NoDirNlink: true, Holes: true, SkipHoles: true}

// TestPackedOnOneNodeMountedByCIDOnAnother is the main job: C knows only B,
// A has the image; everything arrives, and with A gone D mounts from the rest.
func TestPackedOnOneNodeMountedByCIDOnAnother(t *testing.T) {
	needFUSE(t)
	n := network(t)
	nodes := line(t, n, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	source := sample(t)
	cid := pack(t, a, source)
	target := mounted(t, c, cid)
	equalTrees(t, source, target, inMount)

	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := n.Start(t.Context(), "d", b)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WaitPeers(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	equalTrees(t, source, mounted(t, d, cid), inMount)
	if err := c.Unmount(t.Context(), target, false); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
		t.Errorf("after unmounting: %v, %v", entries, err)
	}
}

// TestUnpackRestoresAndRepacksToTheSameCID goes the whole way round.
func TestUnpackRestoresAndRepacksToTheSameCID(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners and devices need root")
	}
	nodes := line(t, network(t), 2)
	source := sample(t)
	repack := func(n *testnet.Node, dir string) string {
		r, err := n.Pack(t.Context(), api.PackRequest{Dir: dir, Reproducible: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.CID
	}
	cid := repack(nodes[0], source)
	target := filepath.Join(t.TempDir(), "unpacked")
	r, err := nodes[1].Unpack(t.Context(), api.UnpackRequest{FList: cid, Dir: target}, nil)
	if err != nil || len(r.NotRestored) > 0 {
		t.Fatalf("%v, not restored: %+v", err, r.NotRestored)
	}
	equalTrees(t, source, target, testnet.CompareOptions{Holes: true, SkipHoles: true})
	if again := repack(nodes[1], target); again != cid {
		t.Errorf("the unpacked tree packs to %s, want %s", again, cid)
	}
}

// TestRestartedNodeFindsItsSiteAgain kills a node and starts it anew, told of
// no peer, with the node it began with gone.
func TestRestartedNodeFindsItsSiteAgain(t *testing.T) {
	n := network(t)
	nodes := line(t, n, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	cid := pack(t, a, sample(t))
	if err := c.WaitPeers(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	waitKnown(t, c, 2)
	c.Kill()
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := n.Start(t.Context(), c.Name)
	if err != nil {
		t.Fatal(err)
	}
	if again.PeerID() != c.PeerID() {
		t.Errorf("the node came back as %s, was %s", again.PeerID(), c.PeerID())
	}
	if _, err := again.Fetch(t.Context(), api.FetchRequest{FList: cid}, nil); err != nil {
		t.Error(err)
	}
}

// waitKnown waits until the node has written down at least count peers.
func waitKnown(t *testing.T, n *testnet.Node, count int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		known, err := filepath.Glob(filepath.Join(n.Data(), "*peers*"))
		if err == nil && len(known) == 1 {
			data, _ := os.ReadFile(known[0])
			if bytes.Count(data, []byte("12D3KooW")) >= count {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node has not written down %d peers: %v", count, known)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// TestFlippedByteInAStoreIsFetchedAgain damages a segment of the store of a stopped
// node: what it has lost comes from another, and nothing wrong is shown.
func TestFlippedByteInAStoreIsFetchedAgain(t *testing.T) {
	n := network(t)
	nodes := line(t, n, 2)
	source := sample(t)
	cid := pack(t, nodes[0], source)
	if _, err := nodes[1].Fetch(t.Context(), api.FetchRequest{FList: cid}, nil); err != nil {
		t.Fatal(err)
	}
	if err := nodes[1].Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	flip(t, nodes[1].Data())
	again, err := n.Start(t.Context(), nodes[1].Name, nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	r, err := again.Verify(t.Context(), api.VerifyRequest{}, nil)
	if err != nil || r.Corrupt+r.Missing == 0 {
		t.Fatalf("Verify = %+v, %v; a byte of a chunk was flipped", r, err)
	}
	if err := again.WaitPeers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	fetched, err := again.Fetch(t.Context(), api.FetchRequest{FList: cid}, nil)
	if err != nil || fetched.NewChunks == 0 {
		t.Errorf("Fetch = %+v, %v; want what was lost", fetched, err)
	}
	if r, err = again.Verify(t.Context(), api.VerifyRequest{FList: cid, Digests: true}, nil); err != nil || !r.OK() || r.Files == 0 {
		t.Errorf("after fetching again: %+v, %v", r, err)
	}
}

// flip changes a byte in the middle of the largest segment below dir.
func flip(t *testing.T, dir string) {
	t.Helper()
	var largest string
	var size int64
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".seg" {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	if err != nil || largest == "" {
		t.Fatalf("no segment below %s: %v", dir, err)
	}
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	if _, err := f.ReadAt(b, size/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, size/2); err != nil {
		t.Fatal(err)
	}
}

// TestWhatNobodyHasIsSaid asks for a CID that no node has.
func TestWhatNobodyHasIsSaid(t *testing.T) {
	nodes := line(t, network(t, "--fetch-timeout", "3s"), 2)
	const nobody = "bafyreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
	_, err := nodes[1].Fetch(t.Context(), api.FetchRequest{FList: nobody}, nil)
	if !errors.Is(err, chunk.ErrNotFound) {
		t.Fatalf("Fetch = %v, want that it was not found", err)
	}
	if !bytes.Contains([]byte(err.Error()), []byte(nodes[0].PeerID()[len(nodes[0].PeerID())-6:])) && !bytes.Contains([]byte(err.Error()), []byte("nobody")) {
		t.Errorf("the error does not say who was asked: %v", err)
	}
}

// TestDemo runs what `make demo` runs, on a small directory, and finds nothing
// left behind.
func TestDemo(t *testing.T) {
	needFUSE(t)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := filepath.Glob(filepath.Join(os.TempDir(), "flistnode-demo-*"))
	r, err := testnet.Demo(t.Context(), testnet.DemoOptions{Source: sample(t), Nodes: 3, Binary: path, Progress: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Differences != 0 || r.Compared < 10 || r.FetchedChunks == 0 || r.MovedBytes == 0 {
		t.Errorf("the demo found %+v", r)
	}
	if after, _ := filepath.Glob(filepath.Join(os.TempDir(), "flistnode-demo-*")); len(after) > len(before) {
		t.Errorf("the demo left %v behind", after)
	}
}
