package mount_test

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/mount"
)

// zoo is a tree with one of everything.
func zoo() *item {
	shared := file(0o640, []byte("two names"))
	capable := file(0o6755, noise(1, 300_000))
	capable.Attr.UID, capable.Attr.GID = 1234, 4_000_000_000
	capable.Attr.Mtime = flist.Time{Sec: 1_700_000_000, Nsec: 123_456_789}
	capable.Attr.Btime, capable.Attr.HasBtime = flist.Time{Sec: 1_600_000_000, Nsec: 1}, true
	capable.Xattrs = []flist.Xattr{
		{Name: []byte("user.comment"), Value: []byte("hello")}, {Name: []byte("user.empty")},
		{Name: []byte("trusted.overlay.opaque"), Value: []byte("y")},
		{Name: []byte("security.capability"), Value: []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
	}
	early, late := file(0, nil), file(0o444, []byte("x"))
	early.Attr.Mtime = flist.Time{Sec: -12_345_678_901, Nsec: 999_999_999}
	early.Attr.Btime, early.Attr.HasBtime = flist.Time{Sec: -1}, true
	late.Attr.Mtime = flist.Time{Sec: 7_000_000_000, Nsec: 1}
	sparse := file(0o600, nil)
	sparse.parts = []part{{hole: 1 << 20}, {data: noise(2, 10_000)}, {hole: 123_456}, {data: []byte("end")}, {hole: 4096}}
	sub := dir(0o1777, map[string]*item{"inner": dir(0o700, map[string]*item{"leaf": file(0o600, []byte("leaf"))}), "second name": {link: shared}})
	sub.Attr.UID, sub.Attr.GID = 7, 8
	return dir(0o755, map[string]*item{
		"Capable": capable, "early": early, "late": late, "sparse": sparse, "shared": shared, "sub": sub,
		"emptydir": dir(0o711, nil), "fifo": special(flist.ModeFIFO|0o600, 0), "sock": special(flist.ModeSocket|0o755, 0),
		"null": special(flist.ModeChar|0o666, unix.Mkdev(1, 3)), "whiteout": special(flist.ModeChar, 0),
		"minor": special(flist.ModeBlock|0o660, unix.Mkdev(259, 0xfedcb)), "major": special(flist.ModeBlock|0o660, unix.Mkdev(4095, 255)),
		"link": symlink("sub/second name"), "long link": symlink(strings.Repeat("x", 4095)),
		"\xff\xfe not UTF-8": file(0o644, []byte("bytes")), strings.Repeat("n", 255): file(0o644, []byte("long")),
	})
}

// seen is all that statx and its friends tell about a file.
type seen struct {
	Mode, UID, GID, Nlink, Major, Minor uint32
	Size, Blocks, Ino                   uint64
	Mtime, Atime, Ctime, Btime          flist.Time
	HasBtime                            bool
	Target                              string
	Xattrs                              map[string]string
}

func look(t testing.TB, path string) seen {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		t.Fatalf("statx %q: %v", path, err)
	}
	tm := func(ts unix.StatxTimestamp) flist.Time { return flist.Time{Sec: ts.Sec, Nsec: ts.Nsec} }
	s := seen{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Nlink: st.Nlink, Major: st.Rdev_major, Minor: st.Rdev_minor,
		Size: st.Size, Blocks: st.Blocks, Ino: st.Ino, Mtime: tm(st.Mtime), Atime: tm(st.Atime), Ctime: tm(st.Ctime), Xattrs: map[string]string{},
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		s.Btime, s.HasBtime = tm(st.Btime), true
	}
	if s.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		s.Target = target
	}
	for _, name := range listXattrs(t, path) {
		buf := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			t.Fatalf("getxattr %q %s: %v", path, name, err)
		}
		s.Xattrs[name] = string(buf[:n])
	}
	return s
}

func listXattrs(t testing.TB, path string) []string {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatalf("listxattr %q: %v", path, err)
	}
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
}

// wanted is what look must see.
func wanted(im *flist.Image, it *item) seen {
	a := im.Attr(it.ino)
	s := seen{
		Mode: a.Mode, UID: a.UID, GID: a.GID, Nlink: a.Nlink, Major: unix.Major(a.Rdev), Minor: unix.Minor(a.Rdev), Size: a.Size, Ino: uint64(it.ino) + 1,
		Mtime: a.Mtime, Atime: a.Mtime, Ctime: a.Mtime, Btime: a.Btime, HasBtime: a.HasBtime, Target: string(it.Target), Xattrs: map[string]string{},
	}
	if a.IsDir() {
		s.Size, s.Blocks = 4096, 8
	}
	data := 0
	for _, p := range it.parts {
		data += len(p.data)
	}
	s.Blocks += uint64(data+511) / 512
	for _, x := range it.Xattrs {
		s.Xattrs[string(x.Name)] = string(x.Value)
	}
	return s
}

func TestEverythingIsAsInTheImage(t *testing.T) {
	m, root := newMemory(), zoo()
	im := build(t, m, root)
	r := start(t, im, m)
	var compare func(path string, it *item)
	compare = func(path string, it *item) {
		if it.link != nil {
			it = it.link
		}
		if diff := cmp.Diff(wanted(im, it), look(t, path)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", path, diff)
		}
		switch it.Attr.Mode & flist.ModeType {
		case flist.ModeRegular:
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, it.content()) {
				t.Errorf("%q: read %d bytes, %v; want %d", path, len(got), err, len(it.content()))
			}
		case flist.ModeDir:
			entries, err := os.ReadDir(path)
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
				info, err := os.Lstat(filepath.Join(path, e.Name()))
				if err != nil || e.Type() != info.Mode().Type() {
					t.Errorf("%q: type in the directory is %s, else %v (%v)", e.Name(), e.Type(), info, err)
				}
			}
			if want := slices.Sorted(maps.Keys(it.items)); err != nil || !slices.Equal(names, want) {
				t.Errorf("%q lists %q, %v; want %q", path, names, err, want)
			}
			for name, child := range it.items {
				compare(filepath.Join(path, name), child)
			}
		}
	}
	for range 2 { // from the tables, then from the kernel's memory
		compare(r.dir, root)
	}
	if r.Stats().Requests["open"] > 2 || r.Stats().Requests["opendir"] > 1 {
		t.Errorf("the kernel goes on asking to open: %v", r.Stats().Requests)
	}
}

func TestDotsAndStatFs(t *testing.T) {
	m := newMemory()
	im := build(t, m, zoo())
	r := start(t, im, m)
	want := map[string]uint64{".": look(t, r.dir+"/sub/inner").Ino, "..": look(t, r.dir+"/sub").Ino}
	got := map[string]uint64{}
	for _, e := range getdents(t, r.dir+"/sub/inner", 0, 1<<16) {
		got[e.name] = e.ino
	}
	delete(got, "leaf")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dots (-want +got):\n%s", diff)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Files != uint64(im.NumInodes()) || st.Ffree != 0 || st.Bfree != 0 || st.Namelen != 255 ||
		st.Blocks != (im.Root().Bytes+4095)/4096 || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("statfs = %+v", st)
	}
}

func TestHolesAreFound(t *testing.T) {
	m := newMemory()
	r := start(t, build(t, m, zoo()), m)
	f, err := os.Open(r.dir + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const a, b, c, end = 1 << 20, 1<<20 + 10_000, 1<<20 + 10_000 + 123_456, 1<<20 + 10_000 + 123_456 + 3
	for _, c := range []struct {
		from   int64
		whence int
		want   int64
		err    error
	}{
		{0, unix.SEEK_DATA, a, nil}, {0, unix.SEEK_HOLE, 0, nil}, {a, unix.SEEK_HOLE, b, nil}, {a + 5, unix.SEEK_DATA, a + 5, nil},
		{b, unix.SEEK_DATA, c, nil}, {c, unix.SEEK_HOLE, end, nil}, {end, unix.SEEK_DATA, 0, unix.ENXIO}, {end + 4096, unix.SEEK_HOLE, 0, unix.ENXIO},
	} {
		if got, err := unix.Seek(int(f.Fd()), c.from, c.whence); err != c.err || err == nil && got != c.want {
			t.Errorf("lseek(%d, %d) = %d, %v; want %d, %v", c.from, c.whence, got, err, c.want, c.err)
		}
	}
}

func TestXattrSizesAndAbsence(t *testing.T) {
	m := newMemory()
	r := start(t, build(t, m, zoo()), m)
	path := r.dir + "/Capable"
	for name, c := range map[string]struct {
		buf  int
		n    int
		want error
	}{
		"user.comment": {0, 5, nil}, "user.empty": {0, 0, nil}, "user.nothing": {10, 0, unix.ENODATA}, "trusted.nothing": {0, 0, unix.ENODATA},
	} {
		if n, err := unix.Lgetxattr(path, name, make([]byte, c.buf)); err != c.want || err == nil && n != c.n {
			t.Errorf("getxattr(%s, %d bytes) = %d, %v; want %d, %v", name, c.buf, n, err, c.n, c.want)
		}
	}
	if _, err := unix.Lgetxattr(path, "user.comment", make([]byte, 4)); err != unix.ERANGE {
		t.Errorf("getxattr with too little room: %v, want ERANGE", err)
	}
	size, err := unix.Llistxattr(path, nil)
	if want := len("user.comment user.empty trusted.overlay.opaque security.capability "); err != nil || size != want {
		t.Errorf("listxattr size = %d, %v; want %d", size, err, want)
	}
	if _, err := unix.Llistxattr(path, make([]byte, size-1)); err != unix.ERANGE {
		t.Errorf("listxattr with too little room: %v, want ERANGE", err)
	}
	if n, err := unix.Llistxattr(r.dir+"/fifo", nil); n != 0 || err != nil {
		t.Errorf("listxattr of a file without = %d, %v", n, err)
	}
}

func TestChangesAreRefused(t *testing.T) {
	m := newMemory()
	r := start(t, build(t, m, zoo()), m)
	at := func(name string) string { return filepath.Join(r.dir, name) }
	open := func(name string, flags int) func() error {
		return func() error {
			fd, err := unix.Open(at(name), flags, 0o600)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
	}
	changes := map[string]func() error{
		"open for writing": open("shared", unix.O_WRONLY), "open for both": open("shared", unix.O_RDWR), "truncate by open": open("shared", unix.O_RDONLY|unix.O_TRUNC),
		"append": open("shared", unix.O_WRONLY|unix.O_APPEND), "create": open("new", unix.O_CREAT|unix.O_WRONLY), "tmpfile": open("sub", unix.O_TMPFILE|unix.O_RDWR),
		"truncate": func() error { return unix.Truncate(at("shared"), 1) }, "mkdir": func() error { return unix.Mkdir(at("new"), 0o700) },
		"mknod":  func() error { return unix.Mknod(at("new"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		"mkfifo": func() error { return unix.Mkfifo(at("new"), 0o600) }, "symlink": func() error { return unix.Symlink("x", at("new")) },
		"link": func() error { return unix.Link(at("shared"), at("new")) }, "unlink": func() error { return unix.Unlink(at("shared")) },
		"rmdir": func() error { return unix.Rmdir(at("emptydir")) }, "rename": func() error { return unix.Rename(at("shared"), at("new")) },
		"chmod": func() error { return unix.Chmod(at("shared"), 0o777) }, "chown": func() error { return unix.Lchown(at("link"), 1, 1) },
		"utimes":   func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, at("shared"), make([]unix.Timespec, 2), 0) },
		"setxattr": func() error { return unix.Lsetxattr(at("shared"), "user.x", []byte("1"), 0) }, "removexattr": func() error { return unix.Lremovexattr(at("Capable"), "user.comment") },
		"write access": func() error { return unix.Access(at("shared"), unix.W_OK) },
	}
	refused := func(t *testing.T) {
		for name, change := range changes {
			if err := change(); err != unix.EROFS {
				t.Errorf("%s: %v, want EROFS", name, err)
			}
		}
	}
	t.Run("by the kernel", refused)
	t.Run("when remounted writable", func(t *testing.T) {
		if err := unix.Mount("", r.dir, "", unix.MS_REMOUNT, "rw"); err != nil {
			t.Skipf("remount: %v", err)
		}
		// The kernel opens files and answers access by itself then; it is the
		// write that is refused.
		for _, name := range []string{"write access", "open for writing", "open for both", "append"} {
			delete(changes, name)
		}
		changes["write"] = func() error {
			fd, err := unix.Open(at("shared"), unix.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Write(fd, []byte("changed"))
			return err
		}
		refused(t)
		if r.Stats().Requests["change"] == 0 {
			t.Error("no change reached the file system")
		}
	})
	if got, err := os.ReadFile(at("shared")); err != nil || string(got) != "two names" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func TestNamesThatDoNotExistAreRemembered(t *testing.T) {
	m := newMemory()
	r := start(t, build(t, m, zoo()), m)
	before := r.Stats().Requests["lookup"]
	for range 100 {
		if _, err := os.Lstat(r.dir + "/nothing"); !os.IsNotExist(err) {
			t.Fatalf("lstat: %v", err)
		}
	}
	if n := r.Stats().Requests["lookup"] - before; n != 1 {
		t.Errorf("%d look-ups for 100 questions, want 1", n)
	}
	if _, err := os.Lstat(r.dir + "/shared/below"); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("lstat below a file: %v", err)
	}
}

func TestPathsBeyond4096Bytes(t *testing.T) {
	const depth, name = 3000, "a directory name"
	root := dir(0o755, map[string]*item{"bottom": file(0o644, []byte("deep"))})
	for range depth {
		root = dir(0o755, map[string]*item{name: root})
	}
	m := newMemory()
	r := start(t, build(t, m, root), m)
	fd, err := unix.Open(r.dir, unix.O_DIRECTORY, 0)
	for i := 0; i < depth && err == nil; i++ {
		var next int
		next, err = unix.Openat(fd, name, unix.O_DIRECTORY, 0)
		unix.Close(fd)
		fd = next
	}
	if err != nil {
		t.Fatal(err)
	}
	bottom, err := unix.Openat(fd, "bottom", 0, 0)
	unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(bottom)
	buf := make([]byte, 10)
	if n, err := unix.Read(bottom, buf); err != nil || string(buf[:n]) != "deep" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestPermissionsAreCheckedByTheKernel(t *testing.T) {
	// user::rw- user:65534:r-- group::--- mask::r-- other::---
	acl := []byte("\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xfe\xff\x00\x00" +
		"\x04\x00\x00\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")
	shared := file(0o640, []byte("for nobody, too"))
	shared.Xattrs = []flist.Xattr{{Name: []byte("system.posix_acl_access"), Value: acl}}
	m := newMemory()
	im := build(t, m, dir(0o755, map[string]*item{"private": file(0o600, []byte("x")), "public": file(0o644, []byte("public")), "acl": shared}))
	r := start(t, im, m, func(o *mount.Options) { o.AllowOther = true; o.Dir = publicDir(t) })
	if got := look(t, r.dir+"/acl").Xattrs["system.posix_acl_access"]; got != string(acl) {
		t.Errorf("ACL = %q, want %q", got, acl)
	}
	for name, want := range map[string]string{"public": "public", "acl": "for nobody, too", "private": ""} {
		if got, err := asNobody(r.dir + "/" + name); got != want || (err == nil) != (want != "") {
			t.Errorf("nobody reads %s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestHugeDirectory(t *testing.T) {
	const n = 100_000
	items := make(map[string]*item, n)
	for i := range n {
		items[string(noiseName(i))] = file(0o644, nil)
	}
	m := newMemory()
	r := start(t, build(t, m, dir(0o755, items)), m)
	first := getdents(t, r.dir, 0, 1<<16)
	all := slices.Clone(first)
	for len(all) > 0 {
		more := getdents(t, r.dir, all[len(all)-1].off, 1<<16)
		if len(more) == 0 {
			break
		}
		all = append(all, more...)
	}
	if len(all) != n+2 {
		t.Fatalf("%d entries, want %d", len(all), n+2)
	}
	names := make(map[string]bool, n)
	for _, e := range all[2:] {
		if items[e.name] == nil || names[e.name] {
			t.Fatalf("unknown or repeated name %q", e.name)
		}
		names[e.name] = true
	}
	// From any remembered place on, the same comes again.
	for _, i := range []int{1, 2, 1000, n / 2, n + 1} {
		rest := getdents(t, r.dir, all[i].off, 1<<12)
		if i+1 < len(all) && (len(rest) == 0 || rest[0] != all[i+1]) || i+1 == len(all) && len(rest) != 0 {
			t.Errorf("after entry %d comes %v", i, rest)
		}
	}
	if got, err := fs.Glob(os.DirFS(r.dir), all[5].name); err != nil || len(got) != 1 {
		t.Errorf("glob = %v, %v", got, err)
	}
}
