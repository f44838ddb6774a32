package unpack_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/unpack"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/sampletree"
	"golang.org/x/sys/unix"
)

func TestRoundTripRestoresEverything(t *testing.T) {
	tmp := t.TempDir()
	source, target := filepath.Join(tmp, "source"), filepath.Join(tmp, "target")
	skipped, err := sampletree.Make(source, sampletree.Options{Entries: 3000, Huge: !testing.Short()})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("not in the sample:", skipped)
	m := newMemory()
	im := packDir(t, m, source)
	var last unpack.Progress
	res, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{Progress: func(p unpack.Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range res.NotRestored {
		t.Error("not restored:", p)
	}
	assertEqualTrees(t, source, target, testnet.CompareOptions{Holes: true, SkipHoles: true})
	if want := int64(im.Root().Counts.Entries) + 1; res.Entries != want || last.Entries != want || last.TotalEntries != want {
		t.Errorf("%d entries, progress says %d of %d; want %d", res.Entries, last.Entries, last.TotalEntries, want)
	}
	if last.Bytes != last.TotalBytes || res.Files != int64(im.Root().Counts.Files) {
		t.Errorf("progress ended at %d of %d bytes; %d of %d files", last.Bytes, last.TotalBytes, res.Files, im.Root().Counts.Files)
	}
	if again := packDir(t, newMemory(), target); again.CID() != im.CID() {
		t.Errorf("packing the copy gives %s, the source gave %s", again.CID(), im.CID())
	}
}

func assertEqualTrees(t *testing.T, a, b string, opts testnet.CompareOptions) {
	t.Helper()
	c, err := testnet.CompareTrees(t.Context(), a, b, opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Differences {
		t.Error("differs:", d)
	}
}

func TestSmallFilesThatShareAChunkFetchItOnce(t *testing.T) {
	m := newMemory()
	var files []entry
	for i := range 50 {
		files = append(files, file(strings.Repeat("x", i+1), 0o644, strings.Repeat("content", i)))
	}
	im := build(t, m, files...)
	m.gets = 0
	if _, err := unpack.Dir(t.Context(), im, m, filepath.Join(t.TempDir(), "d"), unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	if m.gets != im.NumChunks() {
		t.Errorf("%d chunks fetched in %d gets", im.NumChunks(), m.gets)
	}
}

func TestTargetMustBeMissingOrEmpty(t *testing.T) {
	m := newMemory()
	im := build(t, m, file("f", 0o644, "new"))
	target := t.TempDir()
	if err := os.WriteFile(filepath.Join(target, "mine"), []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{}); !errors.Is(err, unpack.ErrNotEmpty) {
		t.Errorf("into a directory with a file: %v; want ErrNotEmpty", err)
	}
	assertNames(t, target, "mine")
	if _, err := unpack.Dir(t.Context(), im, m, filepath.Join(target, "mine"), unpack.Options{}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("into a file: %v; want ENOTDIR", err)
	}
	if _, err := unpack.Dir(t.Context(), im, m, filepath.Join(target, "a/b"), unpack.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("below a missing directory: %v; want ErrNotExist", err)
	}
	if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{Overwrite: true}); err != nil {
		t.Error(err)
	}
	assertNames(t, target, "f", "mine")
}

func TestOverwriteReplacesWhatTheImageNames(t *testing.T) {
	m := newMemory()
	im := build(t, m,
		dir("d", 0o755, file("f", 0o644, "new"), symlink("l", "f"), entry{name: "z", linkTo: "/d/f"}),
		dir("was-file", 0o755, file("g", 0o644, "g")))
	target := t.TempDir()
	do(t,
		os.Mkdir(filepath.Join(target, "d"), 0o700),
		unix.Setxattr(filepath.Join(target, "d"), "user.old", []byte("x"), 0),
		os.WriteFile(filepath.Join(target, "d/f"), []byte("older and longer"), 0o400),
		os.WriteFile(filepath.Join(target, "d/l"), nil, 0o400),
		os.WriteFile(filepath.Join(target, "d/z"), nil, 0o400),
		os.WriteFile(filepath.Join(target, "was-file"), nil, 0o400),
		os.WriteFile(filepath.Join(target, unpack.Marker), nil, 0o400),
	)
	if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	if _, err := unpack.Dir(t.Context(), im, m, fresh, unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	assertEqualTrees(t, fresh, target, testnet.CompareOptions{})
}

func TestOverwriteRefusesADirectoryInTheWay(t *testing.T) {
	m := newMemory()
	im := build(t, m, file("f", 0o644, "new"))
	target := t.TempDir()
	do(t, os.MkdirAll(filepath.Join(target, "f/inside"), 0o700))
	_, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{Overwrite: true})
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), unpack.Marker) {
		t.Errorf("got %v; want EEXIST and a word about the marker", err)
	}
	assertNames(t, target, unpack.Marker, "f")
}

// A failure at any chunk leaves nothing of what was made.
func TestFailureLeavesNothingBehind(t *testing.T) {
	m := newMemory()
	im := build(t, m, file("big", 0o644, strings.Repeat("0123456789abcdef", 100_000)),
		dir("closed", 0o000, dir("in", 0o555, file("f", 0o644, "text"))), symlink("s", "x"))
	gone := errors.New("gone")
	for n := 1; n <= im.NumChunks(); n++ {
		m.gets = 0
		m.fail = func(i int, _ chunk.ID) error {
			if i == n {
				return gone
			}
			return nil
		}
		parent := t.TempDir()
		target := filepath.Join(parent, "new")
		if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{}); !errors.Is(err, gone) {
			t.Fatalf("chunk %d gone: %v", n, err)
		}
		assertNames(t, parent)
		m.gets = 0
		do(t, os.Mkdir(target, 0o751), os.Chmod(target, 0o751))
		if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{}); !errors.Is(err, gone) {
			t.Fatalf("chunk %d gone: %v", n, err)
		}
		assertNames(t, target)
		if st, err := os.Stat(target); err != nil || st.Mode().Perm() != 0o751 {
			t.Errorf("the empty directory is now %v, %v", st.Mode(), err)
		}
	}
}

func TestCancelLeavesNothingBehind(t *testing.T) {
	m := newMemory()
	im := build(t, m, file("big", 0o644, strings.Repeat("0123456789abcdef", 100_000)), dir("d", 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	m.gets = 0
	m.fail = func(i int, _ chunk.ID) error {
		cancel()
		return ctx.Err()
	}
	parent := t.TempDir()
	if _, err := unpack.Dir(ctx, im, m, filepath.Join(parent, "d"), unpack.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; want context.Canceled", err)
	}
	assertNames(t, parent)
}

func TestChunkOfAnotherLengthIsAnError(t *testing.T) {
	m := newMemory()
	im := build(t, m, file("f", 0o644, "content"))
	id, _ := im.Chunk(0)
	for _, wrong := range []string{"", "short", "much longer content"} {
		m.chunks[id] = []byte(wrong)
		parent := t.TempDir()
		var corrupt *chunk.CorruptError
		_, err := unpack.Dir(t.Context(), im, m, filepath.Join(parent, "d"), unpack.Options{})
		if !errors.As(err, &corrupt) || corrupt.ID != id || !strings.Contains(err.Error(), "/f:") {
			t.Errorf("%d bytes: %v; want a CorruptError that names the file", len(wrong), err)
		}
		assertNames(t, parent)
	}
}

func TestMissingChunkNamesFileAndChunk(t *testing.T) {
	m := newMemory()
	im := build(t, m, file("f", 0o644, "content"))
	id, _ := im.Chunk(0)
	delete(m.chunks, id)
	_, err := unpack.Dir(t.Context(), im, m, filepath.Join(t.TempDir(), "d"), unpack.Options{})
	if !errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), "/f:") || !strings.Contains(err.Error(), id.String()) {
		t.Errorf("got %v", err)
	}
}

func TestFullDiskIsSaid(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	small := t.TempDir()
	if err := unix.Mount("small", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount tmpfs:", err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	m := newMemory()
	im := build(t, m, file("big", 0o644, strings.Repeat("0123456789abcdef", 200_000)))
	_, err := unpack.Dir(t.Context(), im, m, filepath.Join(small, "d"), unpack.Options{})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "disk is full") || !strings.Contains(err.Error(), "/big") {
		t.Errorf("got %v", err)
	}
	assertNames(t, small)
}

func TestMarkerGivesWayToAnEntryOfItsName(t *testing.T) {
	m := newMemory()
	im := build(t, m, file(unpack.Marker, 0o644, "of the image"))
	target := filepath.Join(t.TempDir(), "d")
	if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{Sync: true}); err != nil {
		t.Fatal(err)
	}
	assertNames(t, target, unpack.Marker)
}

func TestMarkerIsThereWhileContentIsMissing(t *testing.T) {
	m := newMemory()
	im := build(t, m, file("f", 0o644, "content"))
	target := filepath.Join(t.TempDir(), "d")
	m.fail = func(int, chunk.ID) error {
		entries, err := os.ReadDir(target)
		if err != nil || entries[0].Name() != unpack.Marker {
			t.Errorf("while a chunk is fetched the target holds %v, %v", entries, err)
		}
		_, err = unpack.Dir(context.Background(), im, newMemory(), target, unpack.Options{})
		if !errors.Is(err, unpack.ErrNotEmpty) || !strings.Contains(err.Error(), "another unpack") {
			t.Errorf("a second unpack into the same directory: %v", err)
		}
		return nil
	}
	if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	assertNames(t, target, "f")
}

func TestDefaultACLOfTheTargetAddsNothing(t *testing.T) {
	m := newMemory()
	im := build(t, m, dir("d", 0o755, file("f", 0o644, "x")), file("g", 0o640, "y"))
	parent := t.TempDir()
	setACL := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\xd2\x04\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	plain := filepath.Join(t.TempDir(), "plain")
	if _, err := unpack.Dir(t.Context(), im, m, plain, unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(parent, "system.posix_acl_default", []byte(setACL), 0); err != nil {
		t.Skip("no ACLs here:", err)
	}
	inherits := filepath.Join(parent, "d")
	if _, err := unpack.Dir(t.Context(), im, m, inherits, unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	assertEqualTrees(t, plain, inherits, testnet.CompareOptions{})
}

func TestDeepTreeBeyondTheOpenDirectories(t *testing.T) {
	m := newMemory()
	deepest := dir("bottom", 0o711, file("f", 0o644, "deep"))
	for range 300 {
		deepest = dir(strings.Repeat("d", 50), 0o750, deepest, file("a", 0o600, "a"))
	}
	im := build(t, m, deepest)
	target := filepath.Join(t.TempDir(), "d")
	if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	packed := packDir(t, m, target)
	copied := filepath.Join(t.TempDir(), "d")
	if _, err := unpack.Dir(t.Context(), packed, m, copied, unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	assertEqualTrees(t, target, copied, testnet.CompareOptions{})
	if again := packDir(t, m, copied); again.CID() != packed.CID() {
		t.Errorf("the copy packs to %s, not %s", again.CID(), packed.CID())
	}
}

func assertNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s holds %q; want %q", dir, got, want)
	}
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

var _ chunk.Source = (*memory)(nil)
