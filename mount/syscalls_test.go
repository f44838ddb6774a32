package mount_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/pack"
	"github.com/flistnode/flistnode/mount"
)

// call is a system call on files below a directory. It returns what a program
// sees of it, besides the error.
type call func(at func(string) string) (any, error)

// otherwise are the calls a mount answers in another way than ext4.
var otherwise = []struct {
	calls []string
	ours  string
	why   string
}{
	{[]string{
		"access to write private", "effective access to write private", "open private to append", "open private to create to write",
		"open private to direct write", "open private to read and write", "open private to write", "open private to write, no follow",
		"truncate private", "truncate beyond private",
	}, "EROFS", "all of the file system is read-only, not one mount of it: the kernel says so before it looks at modes (ext4: EACCES)"},
	{[]string{"data at 9000 of dir", "data behind of dir", "hole at 9000 of dir"}, "ENXIO", "offsets in directories: ext4 has hashes there, and takes any"},
	{[]string{"hole at 0 of dir"}, "4096 <nil>", "the same"},
}

// ours returns what a mount answers instead of want.
func ours(name, want string) string {
	for _, o := range otherwise {
		if slices.Contains(o.calls, name) {
			return o.ours
		}
	}
	return want
}

// TestSystemCallsAnswerAsOnReadOnlyExt4 compares a mount with a read-only bind
// mount of the directory it was packed from: every call that would change
// something must fail with the same errno, and locks, seeks and mappings must
// answer the same, for root and for others.
func TestSystemCallsAnswerAsOnReadOnlyExt4(t *testing.T) {
	needFUSE(t)
	source, bound := syscallTree(t), publicDir(t)
	const flags = unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := errors.Join(unix.Mount(source, bound, "", unix.MS_BIND, ""), unix.Mount("", bound, "", unix.MS_REMOUNT|flags, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(bound, unix.MNT_DETACH) })
	m := newMemory()
	res, err := pack.Dir(t.Context(), source, m, pack.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	im, err := flist.Load(t.Context(), m, res.CID)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, im, m, func(o *mount.Options) { o.Dir, o.AllowOther = publicDir(t), true })
	groups := map[string]map[string]call{"change": changingCalls(), "look": lookingCalls()}
	for _, uid := range []int{0, 65534} {
		for group, calls := range groups {
			t.Run(fmt.Sprintf("%s as %d", group, uid), func(t *testing.T) {
				want, got := answers(t, bound, uid, calls), answers(t, r.dir, uid, calls)
				for _, name := range slices.Sorted(maps.Keys(calls)) {
					if want := ours(name, want[name]); got[name] != want {
						t.Errorf("%s: %s, want %s", name, got[name], want)
					}
				}
			})
		}
	}
}

// syscallTree makes one of everything, for all to write.
func syscallTree(t *testing.T) string {
	t.Helper()
	old := unix.Umask(0)
	defer unix.Umask(old)
	root := publicDir(t)
	t.Cleanup(func() { os.RemoveAll(root) })
	in := func(name string) string { return filepath.Join(root, name) }
	content := noise(1, 300_000)
	sparse := in("sparse")
	for _, err := range []error{
		os.WriteFile(in("file"), content, 0o666), os.WriteFile(in("program"), []byte("#!/bin/true\n"), 0o777),
		os.WriteFile(in("private"), content, 0o600), os.WriteFile(in("empty"), nil, 0o666),
		os.WriteFile(sparse, content[:8192], 0o666), os.Truncate(sparse, 1<<20),
		os.Link(in("file"), in("other name")), os.Mkdir(in("dir"), 0o777), os.Mkdir(in("emptydir"), 0o777),
		os.WriteFile(in("dir/inner"), content[:100], 0o666), os.Symlink("file", in("link")), os.Symlink("nothing", in("dangling")),
		unix.Mkfifo(in("fifo"), 0o666), unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(in("sock"), unix.S_IFSOCK|0o666, 0), unix.Setxattr(in("file"), "user.x", []byte("x"), 0),
		os.Chmod(root, 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// answers makes the calls as a user, on a thread that ends with it.
func answers(t *testing.T, dir string, uid int, calls map[string]call) map[string]string {
	t.Helper()
	got, done := map[string]string{}, make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		if errno != 0 {
			done <- errno
			return
		}
		for name, do := range calls {
			v, err := do(func(name string) string { return dir + "/" + name })
			if errno := syscall.Errno(0); errors.As(err, &errno) {
				got[name] = unix.ErrnoName(errno)
			} else {
				got[name] = fmt.Sprint(v, err)
			}
		}
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return got
}

// on makes a call of one that takes a path.
func on(name string, do func(path string) error) call {
	return func(at func(string) string) (any, error) { return nil, do(at(name)) }
}

// between makes a call of one that takes two paths.
func between(a, b string, do func(a, b string) error) call {
	return func(at func(string) string) (any, error) { return nil, do(at(a), at(b)) }
}

// opened makes a call of one that takes a descriptor opened with flags.
func opened(name string, flags int, do func(fd int) (any, error)) call {
	return func(at func(string) string) (any, error) {
		fd, err := unix.Open(at(name), flags, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open: %w", err)
		}
		defer unix.Close(fd)
		return do(fd)
	}
}

func open(name string, flags int) call {
	return opened(name, flags|unix.O_NONBLOCK, func(int) (any, error) { return nil, nil })
}
