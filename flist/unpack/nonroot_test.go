package unpack_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/unpack"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/sampletree"
	"golang.org/x/sys/unix"
)

// asNobody makes sure that the test runs without root: as root it runs itself
// again as another user, in a directory of that user's, and returns false.
func asNobody(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	const nobody = 65534
	home, err := os.MkdirTemp("", "unpack-nobody")
	do(t, err)
	defer os.RemoveAll(home)
	self := filepath.Join(home, "test")
	do(t, copyFile("/proc/self/exe", self), os.Chown(home, nobody, nobody))
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = home, []string{"TMPDIR=" + home, "HOME=" + home}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as another user: %v\n%s", err, out)
	}
	return false
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func TestWithoutRootOwnTreeIsRestoredWhole(t *testing.T) {
	if !asNobody(t) {
		return
	}
	source, target := filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "target")
	if _, err := sampletree.Make(source, sampletree.Options{}); err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	res, err := unpack.Dir(t.Context(), packDir(t, m, source), m, target, unpack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range res.NotRestored {
		t.Error("not restored:", p)
	}
	assertEqualTrees(t, source, target, testnet.CompareOptions{Holes: true})
}

func of(uid, gid uint32, e entry) entry {
	e.node.Attr.UID, e.node.Attr.GID = uid, gid
	return e
}

// foreign is an image that needs root.
func foreign() []entry {
	device := entry{name: "dev", node: flist.Node{Attr: flist.Attr{Mode: unix.S_IFBLK | 0o600, Rdev: unix.Mkdev(7, 1), UID: me(), GID: mine()}}}
	trusted := file("trusted", 0o644, "x")
	trusted.node.Xattrs = []flist.Xattr{{Name: []byte("trusted.a"), Value: []byte("1")}, {Name: []byte("user.a"), Value: []byte("2")}}
	capable := file("capable", 0o755, "x")
	capable.node.Xattrs = []flist.Xattr{{Name: []byte("security.capability"), Value: append([]byte{1, 0, 0, 2, 0, 0x20}, make([]byte, 14)...)}}
	return []entry{
		device, {name: "dev-again", linkTo: "/dev"}, trusted, capable,
		of(0, mine(), file("setuid", 0o4755, "x")),
		of(me(), 0, file("setgid", 0o2755, "x")),
		of(0, 0, symlink("symlink", "x")),
		file("own-setuid", 0o4711, "x"),
		dir("closed", 0o000, dir("below", 0o444, file("f", 0o200, "x")), dir("z", 0o100)),
	}
}

func TestWithoutRootSaysWhatItCouldNotRestore(t *testing.T) {
	if !asNobody(t) {
		return
	}
	m := newMemory()
	im := build(t, m, foreign()...)
	target := filepath.Join(t.TempDir(), "target")
	res, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range res.NotRestored {
		got = append(got, p.What+" "+strings.Join(p.Paths, " "))
		if p.Err == nil || p.Count != int64(len(p.Paths)) {
			t.Errorf("%s: count %d, error %v", p.What, p.Count, p.Err)
		}
	}
	want := []string{
		"device /dev /dev-again", "group /setgid /symlink", "owner /setuid /symlink", "setgid bit /setgid", "setuid bit /setuid",
		"xattr security.capability /capable", "xattr trusted. /trusted",
	}
	if !slices.Equal(got, want) {
		t.Errorf("not restored:\n%q\nwant\n%q", got, want)
	}
	for name, mode := range map[string]uint32{"setuid": 0o755, "setgid": 0o755, "own-setuid": 0o4711, "closed": 0} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(target, name), &st); err != nil || st.Mode&0o7777 != mode {
			t.Errorf("%s: mode %04o, %v; want %04o", name, st.Mode&0o7777, err, mode)
		}
	}
	closed := filepath.Join(target, "closed")
	do(t, os.Chmod(closed, 0o700))
	for name, mode := range map[string]uint32{"below": 0o444, "z": 0o100} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(closed, name), &st); err != nil || st.Mode&0o7777 != mode || st.Mtim.Sec != 7 {
			t.Errorf("closed/%s: mode %04o, mtime %d, %v; want %04o, 7", name, st.Mode&0o7777, st.Mtim.Sec, err, mode)
		}
	}
	do(t, os.Chmod(filepath.Join(closed, "below"), 0o700), os.Chmod(filepath.Join(closed, "z"), 0o700))
}

func TestWithoutRootFailureLeavesNothingBehind(t *testing.T) {
	if !asNobody(t) {
		return
	}
	m := newMemory()
	im := build(t, m, foreign()...)
	m.fail = func(int, chunk.ID) error { return chunk.ErrNotFound }
	parent := t.TempDir()
	if _, err := unpack.Dir(t.Context(), im, m, filepath.Join(parent, "d"), unpack.Options{}); !errors.Is(err, chunk.ErrNotFound) {
		t.Error(err)
	}
	assertNames(t, parent)
}

func TestForRootALossIsAnErrorUnlessAllowed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	m := newMemory()
	odd := file("odd", 0o644, "x")
	odd.node.Xattrs = []flist.Xattr{{Name: []byte("nonsense.a"), Value: []byte("1")}} // no file system has this namespace
	im := build(t, m, odd)
	parent := t.TempDir()
	target := filepath.Join(parent, "d")
	if _, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("got %v; want EOPNOTSUPP", err)
	}
	assertNames(t, parent)
	res, err := unpack.Dir(t.Context(), im, m, target, unpack.Options{AllowLoss: true})
	if err != nil || len(res.NotRestored) != 1 || res.NotRestored[0].What != "xattr nonsense." {
		t.Errorf("when losses are allowed: %v, %v", res.NotRestored, err)
	}
}
