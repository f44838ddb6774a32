package unpack_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/unpack"
	"github.com/flistnode/flistnode/testnet"
	"golang.org/x/sys/unix"
)

// outside makes a directory that no unpack may touch, and a check of that.
func outside(t *testing.T) (path string, untouched func()) {
	t.Helper()
	plant := func() string {
		dir := t.TempDir()
		do(t,
			os.WriteFile(filepath.Join(dir, "f"), []byte("outside"), 0o600),
			os.Mkdir(filepath.Join(dir, "sub"), 0o700),
			os.WriteFile(filepath.Join(dir, "sub/f"), []byte("outside"), 0o600),
		)
		for _, name := range []string{"f", "sub/f", "sub", ""} {
			ts := []unix.Timespec{{Sec: 1}, {Sec: 1}}
			do(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), ts, 0))
		}
		return dir
	}
	kept, dir := plant(), plant()
	return dir, func() {
		t.Helper()
		c, err := testnet.CompareTrees(t.Context(), kept, dir, testnet.CompareOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range c.Differences {
			if d.What != "nlink" { // a test may itself have linked to a file
				t.Error("touched outside the target:", d)
			}
		}
	}
}

func TestNothingOutsideTheTargetIsTouched(t *testing.T) {
	image := []entry{
		dir("sub", 0o711, file("f", 0o666, "inside"), dir("deeper", 0o700, file("g", 0o600, "g"))),
		file("f", 0o4755, "inside"),
		{name: "g", linkTo: "/f"},
		dir("z", 0o755, entry{name: "from-sub", linkTo: "/sub/f"}),
		symlink("s", "f"),
		{name: "s2", linkTo: "/s"},
		{name: "p", node: flist.Node{Attr: flist.Attr{Mode: unix.S_IFIFO | 0o666, UID: me(), GID: mine()}}},
	}
	for name, plant := range map[string]func(target, out string) error{
		"symlinks where directories go": func(target, out string) error {
			return os.Symlink(filepath.Join(out, "sub"), filepath.Join(target, "sub"))
		},
		"relative symlink upwards": func(target, out string) error {
			rel, err := filepath.Rel(target, filepath.Join(out, "sub"))
			if err != nil {
				return err
			}
			return os.Symlink(rel, filepath.Join(target, "sub"))
		},
		"symlinks where files go": func(target, out string) error {
			for _, name := range []string{"f", "g", "s", "s2", "p"} {
				if err := os.Symlink(filepath.Join(out, "f"), filepath.Join(target, name)); err != nil {
					return err
				}
			}
			return nil
		},
		"hard links where files go": func(target, out string) error {
			for _, name := range []string{"f", "g", "s", "p"} {
				if err := os.Link(filepath.Join(out, "f"), filepath.Join(target, name)); err != nil {
					return err
				}
			}
			return nil
		},
		"FIFOs where files go": func(target, out string) error { return unix.Mkfifo(filepath.Join(target, "f"), 0o600) },
		"marker is a symlink": func(target, out string) error {
			return os.Symlink(filepath.Join(out, "made"), filepath.Join(target, unpack.Marker))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			im := build(t, m, image...)
			out, untouched := outside(t)
			target := t.TempDir()
			do(t, plant(target, out))
			if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{Overwrite: true}); err != nil {
				t.Fatal(err)
			}
			untouched()
			fresh := filepath.Join(t.TempDir(), "fresh")
			if _, err := unpack.Dir(t.Context(), im, m, fresh, unpack.Options{}); err != nil {
				t.Fatal(err)
			}
			assertEqualTrees(t, fresh, target, testnet.CompareOptions{})
		})
	}
}

// Symlinks of the image itself that lead out are made and never followed.
func TestSymlinksThatLeadOutAreNotFollowed(t *testing.T) {
	out, untouched := outside(t)
	m := newMemory()
	away := symlink("away", out)
	away.node.Attr.UID, away.node.Attr.Mode = me(), unix.S_IFLNK
	im := build(t, m, away, entry{name: "b", linkTo: "/away"}, symlink("up", "../../../../../.."), symlink("f", filepath.Join(out, "f")))
	target := filepath.Join(t.TempDir(), "d")
	if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{}); err != nil {
		t.Fatal(err)
	}
	untouched()
	if got, err := os.Readlink(filepath.Join(target, "b")); err != nil || got != out {
		t.Errorf("the hard link to a symlink reads %q, %v", got, err)
	}
}

// Somebody who may write to the target replaces directories by symlinks while
// they are filled. Unpacking may fail; nothing may land elsewhere.
func TestRaceForADirectoryTouchesNothingOutside(t *testing.T) {
	out, untouched := outside(t)
	m := newMemory()
	var files []entry
	for i := range 40 {
		files = append(files, file(strings.Repeat("f", i+1), 0o777, "inside"))
	}
	im := build(t, m, dir("sub", 0o777, append(files, dir("sub", 0o777, file("f", 0o777, "inside")))...),
		dir("z", 0o755, entry{name: "from-sub", linkTo: "/sub/f"}))
	target := t.TempDir()
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		sub, hidden := filepath.Join(target, "sub"), filepath.Join(target, "hidden")
		for {
			select {
			case <-stop:
				return
			default:
			}
			os.Rename(sub, hidden)
			os.Symlink(out, sub)
			os.Remove(sub)
			os.Rename(hidden, sub)
		}
	})
	for range 60 {
		_, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{Overwrite: true})
		if err != nil {
			t.Log(err)
		}
	}
	close(stop)
	attacker.Wait()
	untouched()
}
