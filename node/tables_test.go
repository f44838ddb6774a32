package node

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/node/api"
)

// forgetImages closes the images the node keeps loaded.
func forgetImages(n *Node) {
	n.images.mu.Lock()
	n.images.lru.Purge()
	n.images.unlockAndClose()
}

// isSaved reports whether the tables of root are in a file, loadedSaved whether
// those in use are.
func isSaved(t *testing.T, n *Node, root cid.Cid) bool {
	t.Helper()
	_, err := os.Stat(n.tables.path(root))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func loadedSaved(t *testing.T, n *Node, root cid.Cid) bool {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	return strings.Contains(string(maps), n.tables.path(root))
}

// saveSample packs a small tree and lets the node save its tables by itself.
func saveSample(t *testing.T, n *Node, seed uint64) cid.Cid {
	t.Helper()
	n.tables.least, n.tables.pause = 0, 0 // nobody looks at them before the load
	dir, _ := sample(t, seed)
	root, err := parseCID(packed(t, n, dir)) // which wishes it
	must(t, err)
	waitFor(t, "saved tables", func() bool { return isSaved(t, n, root) })
	forgetImages(n)
	return root
}

func TestTablesAreSavedAndUsedAgain(t *testing.T) {
	n := startNode(t, "a", nil)
	root := saveSample(t, n, 41)
	im, err := n.load(t.Context(), root.String())
	must(t, err)
	if !loadedSaved(t, n, root) {
		t.Error("saved tables are not used")
	}
	ino, err := im.Resolve([]byte("/etc/hostname"))
	if err != nil || !im.Attr(ino).IsRegular() {
		t.Errorf("inode %d: %v", ino, err)
	}
	im.Close()
	must(t, n.Remove(t.Context(), root.String()))
	if isSaved(t, n, root) {
		t.Error("they are kept although the flist was removed")
	}
}

// TestDamagedSavedTablesAreMadeAnew flips a bit of the file.
func TestDamagedSavedTablesAreMadeAnew(t *testing.T) {
	n := startNode(t, "a", nil)
	root := saveSample(t, n, 42)
	b, err := os.ReadFile(n.tables.path(root))
	must(t, err)
	good := slices.Clone(b)
	b[len(b)/3] ^= 4
	must(t, os.WriteFile(n.tables.path(root), b, 0o600))
	im, err := n.load(t.Context(), root.String())
	must(t, err)
	defer im.Close()
	if loadedSaved(t, n, root) {
		t.Error("damaged tables are used")
	}
	if _, err := im.Resolve([]byte("/etc/hostname")); err != nil {
		t.Error(err)
	}
	waitFor(t, "new saved tables", func() bool {
		b, err := os.ReadFile(n.tables.path(root))
		return err == nil && slices.Equal(b, good)
	})
}

// TestTablesOfWhatIsHeldAreSavedAtTheStart starts as a daemon does on a store
// that a process without one has packed into, and one whose tables are not whole.
func TestTablesOfWhatIsHeldAreSavedAtTheStart(t *testing.T) {
	n, err := New(t.Context(), testConfig(t.TempDir()), testLog(t, "a")) // without Run nobody takes the wishes
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	var roots []cid.Cid
	for seed := range uint64(2) {
		dir, _ := sample(t, 50+seed)
		root, err := parseCID(packed(t, n, dir))
		must(t, err)
		roots = append(roots, root)
	}
	whole, err := flist.LoadRoot(t.Context(), local{n}, roots[0])
	must(t, err)
	broken, err := flist.LoadRoot(t.Context(), local{n}, roots[1])
	must(t, err)
	for _, id := range broken.MetadataChunks(false) {
		if !slices.Contains(whole.MetadataChunks(false), id) {
			must(t, n.store.Delete(t.Context(), id))
		}
	}
	n.tables.least = 0
	n.wishHeldTables(t.Context())
	var wished []string
	for len(n.tables.wished) > 0 {
		wished = append(wished, (<-n.tables.wished).String())
	}
	if want := []string{roots[0].String()}; !slices.Equal(wished, want) {
		t.Errorf("wished %q, want %q", wished, want)
	}
}

func TestTablesOfAnFListThatIsNotHeldAreNotSaved(t *testing.T) {
	n := startNode(t, "a", nil)
	root := saveSample(t, n, 43)
	im, err := n.load(t.Context(), root.String())
	must(t, err)
	defer im.Close()
	must(t, n.Remove(t.Context(), root.String()))
	must(t, n.saveTablesOf(t.Context(), root))
	if isSaved(t, n, root) {
		t.Error("they are saved")
	}
}

// TestATablePageThatIsGoneFailsTheCommandAlone cuts the file under a loaded
// image.
func TestATablePageThatIsGoneFailsTheCommandAlone(t *testing.T) {
	n := startNode(t, "a", nil)
	root := saveSample(t, n, 44)
	im, err := n.load(t.Context(), root.String())
	must(t, err)
	im.Close()
	must(t, os.Truncate(n.tables.path(root), 0))
	c := api.InProcess(api.Handler(n))
	defer func() { must(t, c.Close()) }()
	name := root.String()
	for what, err := range map[string]error{
		"ls":      c.List(t.Context(), name, "/", api.ListOptions{}, func(api.Entry) error { return nil }),
		"diff":    c.Diff(t.Context(), name, name, func(api.Change) error { return nil }),
		"stat":    second(c.Stat(t.Context(), name, "/etc/hostname")),
		"inspect": second(c.Inspect(t.Context(), name)),
		"cat":     c.Cat(t.Context(), name, "/etc/hostname", io.Discard),
		"unpack":  second(c.Unpack(t.Context(), api.UnpackRequest{FList: name, Dir: filepath.Join(t.TempDir(), "out")}, nil)),
		"verify":  second(c.Verify(t.Context(), api.VerifyRequest{FList: name, Digests: true}, nil)),
	} {
		if err == nil || !strings.Contains(err.Error(), flist.ErrTablePage.Error()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.ID(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestSavedTablesAreBounded(t *testing.T) {
	s := newSavedTables(t.TempDir(), testLog(t, "a"))
	s.most = 250
	now := time.Now()
	for i, name := range []string{"second", "first", "third", "fourth"} {
		path := filepath.Join(s.dir, name)
		must(t, os.WriteFile(path, make([]byte, 100), 0o600))
		used := now.Add(time.Duration([]int{2, 1, 3, 4}[i]) * time.Minute)
		must(t, os.Chtimes(path, used, used))
	}
	must(t, s.trim())
	var left []string
	entries, err := os.ReadDir(s.dir)
	must(t, err)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if !slices.Equal(left, []string{"fourth", "third"}) {
		t.Errorf("%v are left, want the two used last", left)
	}
}
