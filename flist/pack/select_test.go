package pack_test

import (
	"bytes"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/pack"
)

func paths(t *testing.T, dir string, opts pack.Options) []string {
	t.Helper()
	res, m := packed(t, dir, opts)
	im, err := flist.Load(t.Context(), m, res.CID)
	must(t, err)
	var out []string
	must(t, im.Walk(func(path []byte, _ flist.Inode) error {
		out = append(out, string(path))
		return nil
	}))
	return out
}

func TestExcluder(t *testing.T) {
	for _, c := range []struct {
		pattern, path string // a path with a slash at its end is a directory
		want          bool
	}{
		{"*.o", "a.o", true},
		{"*.o", "x/y/a.o", true},
		{"*.o", "x.o/", true},
		{"*.o/", "a.o", false},
		{"*.o/", "x/a.o/", true},
		{"/tmp", "tmp", true},
		{"/tmp", "x/tmp", false},
		{"var/cache", "var/cache/", true},
		{"var/cache", "x/var/cache", false},
		{"var/*", "var/x", true},
		{"var/*", "var/x/y", false},
		{"var/*/", "var/x", false},
		{"**/cache", "cache", true},
		{"**/cache", "a/b/cache", true},
		{"a/**/z", "a/z", true},
		{"a/**/z", "a/b/c/z", true},
		{"a/**/z", "b/z", false},
		{"a/**", "a/b", true},
		{"?", "\xff", true},
		{"[a-c]x", "bx", true},
		{`\*`, "*", true},
		{`\*`, "a", false},
	} {
		e, err := pack.NewExcluder([]string{c.pattern})
		must(t, err)
		body, isDir := strings.CutSuffix(c.path, "/")
		names := strings.Split(body, "/")
		last := len(names) - 1
		if got := e.Match(names[:last], names[last], isDir); got != c.want {
			t.Errorf("%q matches %q: %v, want %v", c.pattern, c.path, got, c.want)
		}
	}
}

func TestExcludedEntriesAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"a/keep", "a/drop.o", "cache/x", "a/cache/y", "b/z"} {
		write(t, dir+"/"+p, nil)
	}
	got := paths(t, dir, pack.Options{Exclude: []string{"*.o", "/cache/", "b/*"}})
	if want := []string{"/", "/a", "/a/cache", "/a/cache/y", "/a/keep", "/b"}; !slices.Equal(got, want) {
		t.Errorf("packed %q, want %q", got, want)
	}
}

func TestSkippedDirectoryIsKeptEmpty(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/data/chunk", nil)
	write(t, dir+"/b", nil)
	must(t, os.Symlink("a/data", dir+"/way"))
	var log bytes.Buffer
	got := paths(t, dir, pack.Options{Skip: []string{dir + "/way"}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if want := []string{"/", "/a", "/a/data", "/b", "/way"}; !slices.Equal(got, want) {
		t.Errorf("packed %q, want %q", got, want)
	}
	if !strings.Contains(log.String(), "path=/a/data") {
		t.Errorf("log says %q", log.String())
	}
}

func TestOneFileSystem(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/mnt", 0o755))
	if err := unix.Mount("none", dir+"/mnt", "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir+"/mnt", unix.MNT_DETACH) })
	write(t, dir+"/mnt/x/y", []byte("y"))
	if got, want := paths(t, dir, pack.Options{}), []string{"/", "/mnt", "/mnt/x", "/mnt/x/y"}; !slices.Equal(got, want) {
		t.Errorf("packed %q, want %q", got, want)
	}
	if got, want := paths(t, dir, pack.Options{OneFileSystem: true}), []string{"/", "/mnt"}; !slices.Equal(got, want) {
		t.Errorf("on one file system packed %q, want %q", got, want)
	}
}

// Files of /proc claim to be empty; what a read gives is what counts.
func TestFilesThatLieAboutTheirSize(t *testing.T) {
	const dir = "/proc/sys/kernel/keys"
	want, err := os.ReadFile(dir + "/maxkeys")
	if err != nil {
		t.Skip("needs such files:", err)
	}
	res, m := packed(t, dir, pack.Options{})
	im, err := flist.Load(t.Context(), m, res.CID)
	must(t, err)
	digests, err := im.Digests(t.Context(), m)
	must(t, err)
	ino, err := im.Resolve([]byte("/maxkeys"))
	must(t, err)
	if _, sum := imageContent(t, m, im, ino); im.Attr(ino).Size != uint64(len(want)) {
		t.Errorf("%d bytes, want %d", im.Attr(ino).Size, len(want))
	} else if recorded, _ := digests.Of(ino); recorded != sum {
		t.Errorf("digest %x, want %x", recorded, sum)
	}
}
