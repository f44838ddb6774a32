package testnet_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/sampletree"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// plant makes the small tree that every case of the table starts from.
func plant(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	do(t,
		os.Mkdir(in("d"), 0o755),
		os.WriteFile(in("d/file"), []byte(strings.Repeat("0123456789", 100_000)), 0o644),
		os.WriteFile(in("d/\xff"), []byte("bytes"), 0o600),
		unix.Setxattr(in("d/file"), "user.x", []byte("1"), 0),
		os.Symlink("file", in("d/symlink")),
		unix.Mkfifo(in("d/fifo"), 0o600),
		os.WriteFile(in("d/one"), []byte("linked"), 0o600),
		os.Link(in("d/one"), in("d/two")),
		os.WriteFile(in("d/three"), []byte("linked"), 0o600),
		os.Link(in("d/three"), in("d/zour")),
		os.Truncate(in("d/\xff"), 1<<20),
	)
	if os.Geteuid() == 0 {
		do(t, unix.Mknod(in("d/dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	}
	for _, name := range []string{"d/file", "d/\xff", "d/symlink", "d/fifo", "d/one", "d/three", "d/dev", "d", "."} {
		settime(t, in(name), 1000, 5)
	}
	return dir
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func settime(t *testing.T, path string, sec, nsec int64) {
	t.Helper()
	ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func TestCompareTreesReportsExactlyWhatDiffers(t *testing.T) {
	replace := func(path string, make func(path string) error) error {
		if err := os.Remove(path); err != nil {
			return err
		}
		return make(path)
	}
	for name, c := range map[string]struct {
		change func(in func(string) string) error
		opts   testnet.CompareOptions
		want   []string // "path what"
		root   bool
	}{
		"nothing":      {change: func(func(string) string) error { return nil }},
		"content":      {change: func(in func(string) string) error { return writeAt(in("d/file"), 777_777, 'x') }, want: []string{"d/file content"}},
		"first byte":   {change: func(in func(string) string) error { return writeAt(in("d/file"), 0, 'x') }, want: []string{"d/file content"}},
		"last byte":    {change: func(in func(string) string) error { return writeAt(in("d/file"), 999_999, 'x') }, want: []string{"d/file content"}},
		"byte in hole": {change: func(in func(string) string) error { return writeAt(in("d/\xff"), 777_777, 'x') }, want: []string{"d/\xff content"}},
		"size":         {change: func(in func(string) string) error { return os.Truncate(in("d/file"), 10) }, want: []string{"d/file size"}},
		"mode":         {change: func(in func(string) string) error { return os.Chmod(in("d/file"), 0o640) }, want: []string{"d/file mode"}},
		"setuid":       {change: func(in func(string) string) error { return unix.Chmod(in("d/file"), 0o4644) }, want: []string{"d/file mode"}},
		"sticky":       {change: func(in func(string) string) error { return unix.Chmod(in("d"), 0o1755) }, want: []string{"d mode"}},
		"mode of root": {change: func(in func(string) string) error { return os.Chmod(in("."), 0o711) }, want: []string{". mode"}},
		"uid":          {change: func(in func(string) string) error { return os.Lchown(in("d/symlink"), 7, -1) }, want: []string{"d/symlink uid"}, root: true},
		"gid":          {change: func(in func(string) string) error { return os.Lchown(in("d/fifo"), -1, 7) }, want: []string{"d/fifo gid"}, root: true},
		"device": {change: func(in func(string) string) error {
			return replace(in("d/dev"), func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) })
		}, want: []string{"d/dev device"}, root: true},
		"device type": {change: func(in func(string) string) error {
			return replace(in("d/dev"), func(p string) error { return unix.Mknod(p, unix.S_IFBLK|0o600, int(unix.Mkdev(1, 3))) })
		}, want: []string{"d/dev type"}, root: true},
		"type": {change: func(in func(string) string) error {
			return replace(in("d/fifo"), func(p string) error { return os.WriteFile(p, nil, 0o600) })
		}, want: []string{"d/fifo type"}},
		"target": {change: func(in func(string) string) error {
			return replace(in("d/symlink"), func(p string) error { return os.Symlink("elsewhere", p) })
		}, want: []string{"d/symlink symlink target"}},
		"missing": {change: func(in func(string) string) error { return os.Remove(in("d/fifo")) }, want: []string{"d/fifo entry"}},
		"more":    {change: func(in func(string) string) error { return os.WriteFile(in("d/zz"), nil, 0o600) }, want: []string{"d/zz entry"}},
		"more directories": {change: func(in func(string) string) error { return os.MkdirAll(in("d/aa/bb"), 0o700) },
			want: []string{"d nlink", "d/aa entry"}},
		"link count of directories left out": {change: func(in func(string) string) error { return os.MkdirAll(in("d/aa/bb"), 0o700) },
			opts: testnet.CompareOptions{NoDirNlink: true}, want: []string{"d/aa entry"}},
		"xattr value": {change: func(in func(string) string) error { return unix.Setxattr(in("d/file"), "user.x", []byte("2"), 0) }, want: []string{"d/file xattr user.x"}},
		"xattr empty": {change: func(in func(string) string) error { return unix.Setxattr(in("d/file"), "user.x", nil, 0) }, want: []string{"d/file xattr user.x"}},
		"xattr more":  {change: func(in func(string) string) error { return unix.Setxattr(in("d"), "user.y", nil, 0) }, want: []string{"d xattr user.y"}},
		"xattr less":  {change: func(in func(string) string) error { return unix.Removexattr(in("d/file"), "user.x") }, want: []string{"d/file xattr user.x"}},
		"xattr of symlink": {change: func(in func(string) string) error {
			return unix.Lsetxattr(in("d/symlink"), "trusted.y", []byte("2"), 0)
		}, want: []string{"d/symlink xattr trusted.y"}, root: true},
		"xattr ignored": {change: func(in func(string) string) error { return unix.Setxattr(in("d"), "user.y", nil, 0) },
			opts: testnet.CompareOptions{IgnoreXattr: func(n string) bool { return n == "user.y" }}},
		"hard link broken": {change: func(in func(string) string) error {
			return replace(in("d/two"), func(p string) error { return os.WriteFile(p, []byte("linked"), 0o600) })
		}, want: []string{"d/one nlink", "d/two hard link", "d/two nlink"}},
		"hard link broken, links inside counted": {change: func(in func(string) string) error {
			return replace(in("d/two"), func(p string) error { return os.WriteFile(p, []byte("linked"), 0o600) })
		}, opts: testnet.CompareOptions{LinksInside: true}, want: []string{"d/two hard link", "d/two nlink"}},
		"hard links crossed": {change: func(in func(string) string) error {
			return firstOf(os.Rename(in("d/two"), in("d/x")), os.Rename(in("d/zour"), in("d/two")), os.Rename(in("d/x"), in("d/zour")))
		}, want: []string{"d/two hard link", "d/zour hard link"}},
		"holes": {change: func(in func(string) string) error { return writeAt(in("d/\xff"), 0x80000, 0) },
			opts: testnet.CompareOptions{Holes: true}, want: []string{"d/\xff holes"}},
		"holes not looked at": {change: func(in func(string) string) error { return writeAt(in("d/\xff"), 0x80000, 0) }},
		"skipping holes":      {change: func(in func(string) string) error { return writeAt(in("d/\xff"), 0x80000, 1) }, opts: testnet.CompareOptions{SkipHoles: true}, want: []string{"d/\xff content"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			a, b := plant(t), plant(t)
			do(t, c.change(func(name string) string { return filepath.Join(b, name) }))
			for _, name := range []string{"d/file", "d/\xff", "d/symlink", "d/fifo", "d/one", "d/two", "d/three", "d/zour", "d/dev", "d", "."} {
				settime(t, filepath.Join(b, name), 1000, 5)
			}
			assertDifferences(t, a, b, c.opts, c.want)
		})
	}
}

func TestCompareTreesCountsTheLinksInside(t *testing.T) {
	a, b := plant(t), plant(t)
	outside := filepath.Join(t.TempDir(), "outside")
	do(t, os.Link(filepath.Join(a, "d/file"), outside), os.Link(filepath.Join(a, "d/one"), outside+"2"))
	assertDifferences(t, a, b, testnet.CompareOptions{LinksInside: true}, nil)
	assertDifferences(t, a, b, testnet.CompareOptions{}, []string{"d/file nlink", "d/one nlink", "d/two nlink"})
	assertDifferences(t, b, a, testnet.CompareOptions{LinksInside: true}, []string{"d/file nlink", "d/two nlink"})
}

func TestCompareTreesSeesOneNanosecond(t *testing.T) {
	a, b := plant(t), plant(t)
	settime(t, filepath.Join(b, "d/symlink"), 1000, 6)
	settime(t, filepath.Join(b, "d/file"), -1000, 5)
	settime(t, b, 1001, 5)
	assertDifferences(t, a, b, testnet.CompareOptions{}, []string{". mtime", "d/file mtime", "d/symlink mtime"})
}

func TestCompareTreesSeesBirthTimesWhenAsked(t *testing.T) {
	a := plant(t)
	assertDifferences(t, a, a, testnet.CompareOptions{BirthTime: true, Holes: true}, nil)
	// The clock of the file system moves in steps of milliseconds.
	for deadline := time.Now().Add(30 * time.Second); ; {
		got, err := testnet.CompareTrees(t.Context(), a, plant(t), testnet.CompareOptions{BirthTime: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range got.Differences {
			if d.What != "birth time" {
				t.Fatal("differs:", d)
			}
		}
		if got.Total == got.Entries {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d differences in %d entries that were all born at another time", got.Total, got.Entries)
		}
	}
}

func TestCompareTreesTakesTheWholeSample(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, dir := range []string{a, b} {
		if _, err := sampletree.Make(dir, sampletree.Options{Entries: 500}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := testnet.CompareTrees(t.Context(), a, b, testnet.CompareOptions{Holes: true})
	if err != nil || !c.Equal() {
		t.Fatalf("two samples differ: %v, %v", c.Differences, err)
	}
	if c.Entries < 800 || c.Files < 500 || c.Bytes < 10<<20 {
		t.Errorf("compared %d entries, %d files, %d bytes: too few", c.Entries, c.Files, c.Bytes)
	}
}

// A path deeper than the directories kept open, and longer than 4096 bytes.
func TestCompareTreesGoesDeepAndComesBack(t *testing.T) {
	const levels = 200
	var roots [2]string
	for i := range roots {
		roots[i] = t.TempDir()
		fd, err := unix.Open(roots[i], unix.O_DIRECTORY|unix.O_RDONLY, 0)
		do(t, err)
		for n := range levels {
			name := fmt.Sprintf("%04d-%s", n, strings.Repeat("d", 40))
			do(t, unix.Mkdirat(fd, name, 0o755))
			if n%50 == 7 || n == levels-1 {
				do(t, unix.Mkdirat(fd, "after", 0o755))
				if i == 1 {
					do(t, unix.Fchmodat(fd, "after", 0o711, 0))
				}
				do(t, unix.UtimesNanoAt(fd, "after", make([]unix.Timespec, 2), 0))
			}
			below, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
			do(t, err, unix.Futimes(fd, make([]unix.Timeval, 2)), unix.Close(fd))
			fd = below
		}
		do(t, unix.Futimes(fd, make([]unix.Timeval, 2)), unix.Close(fd))
	}
	c, err := testnet.CompareTrees(t.Context(), roots[0], roots[1], testnet.CompareOptions{})
	if err != nil || c.Total != 5 || c.Entries != 1+levels+5 {
		t.Fatalf("%d differences in %d entries, %v; want 5 in %d: %v", c.Total, c.Entries, err, 1+levels+5, c.Differences)
	}
	for _, d := range c.Differences {
		if !strings.HasSuffix(d.Path, "/after") || d.What != "mode" {
			t.Errorf("found %.20q... %s, want the modes of the directories named after", d.Path, d.What)
		}
	}
}

func TestCompareTreesBoundsTheListAndCountsAll(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for i := range 50 {
		do(t, os.WriteFile(filepath.Join(a, fmt.Sprint(i)), nil, 0o600))
	}
	do(t, os.Chtimes(a, fixed, fixed), os.Chtimes(b, fixed, fixed), os.Chmod(b, 0o755), os.Chmod(a, 0o755))
	c, err := testnet.CompareTrees(t.Context(), a, b, testnet.CompareOptions{MaxListed: 3})
	if err != nil || c.Total != 50 || len(c.Differences) != 3 {
		t.Errorf("%d differences, %d listed, %v; want 50, 3", c.Total, len(c.Differences), err)
	}
}

func TestCompareTreesFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := testnet.CompareTrees(t.Context(), dir, filepath.Join(dir, "none"), testnet.CompareOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing tree: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := testnet.CompareTrees(ctx, dir, dir, testnet.CompareOptions{}); err == nil {
		t.Error("a cancelled comparison gave no error")
	}
}

func assertDifferences(t *testing.T, a, b string, opts testnet.CompareOptions, want []string) {
	t.Helper()
	c, err := testnet.CompareTrees(t.Context(), a, b, opts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range c.Differences {
		got = append(got, d.Path+" "+d.What)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s%v", diff, c.Differences)
	}
}

func writeAt(path string, off int64, b byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{b}, off)
	return firstOf(err, f.Close())
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

var fixed = time.Unix(1000, 5)
