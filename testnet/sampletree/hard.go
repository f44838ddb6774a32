package sampletree

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func (m *maker) xattrs() {
	m.dir("xattrs", 0o755)
	m.file("xattrs/user", 0o644, []byte("xattr\n"))
	for name, value := range map[string][]byte{
		"user.text":         []byte("value"),
		"user.empty":        nil,
		"user.binary":       {0, 1, 0xff, 0},
		"user.long":         bytes.Repeat([]byte("x"), 2000),
		"user.\xff\xfename": []byte("a name that is not UTF-8"),
	} {
		m.xattr(m.path("xattrs/user"), name, value)
	}
	m.file("xattrs/same", 0o644, nil)
	m.xattr(m.path("xattrs/same"), "user.text", []byte("value"))
	m.dir("xattrs/dir", 0o755)
	m.xattr(m.path("xattrs/dir"), "user.dir", []byte("on a directory"))

	m.file("xattrs/acl", 0o640, []byte("acl\n"))
	m.xattr(m.path("xattrs/acl"), "system.posix_acl_access", acl(6, 4, 4, 0))
	m.dir("xattrs/acl-dir", 0o750)
	m.file("xattrs/acl-dir/made-before", 0o600, []byte("no ACL inherited\n"))
	m.dir("xattrs/acl-dir/sub", 0o750)
	m.xattr(m.path("xattrs/acl-dir"), "system.posix_acl_default", acl(7, 5, 5, 0))

	m.stamp("xattrs/user")
	m.stamp("xattrs/same")
	m.stamp("xattrs/acl")
	if !m.needRoot("security. and trusted. xattrs") {
		return
	}
	m.file("xattrs/capability", 0o755, []byte("ping\n"))
	m.own("xattrs/capability", 1, 1)
	m.xattr(m.path("xattrs/capability"), "security.capability", capability(1<<13))
	m.file("xattrs/trusted", 0o644, []byte("trusted\n"))
	m.xattr(m.path("xattrs/trusted"), "trusted.sample", []byte("root alone sees this"))
	m.symlink("trusted", "xattrs/symlink")
	m.xattr(m.path("xattrs/symlink"), "trusted.on-symlink", []byte("a symlink's own"))
	m.mknod("FIFO", "xattrs/fifo", unix.S_IFIFO|0o600, 0)
	m.xattr(m.path("xattrs/fifo"), "trusted.on-fifo", []byte("a FIFO's own"))
	m.stamp("xattrs/capability")
}

// acl returns a POSIX ACL with one named user, in the form of its xattr
// (linux/posix_acl_xattr.h, version 2). The four are permission bits.
func acl(owner, named, group, other uint16) []byte {
	const noID = 0xffffffff
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, owner, noID}, {0x02, named, 1234}, {0x04, group, noID}, {0x10, named | group, noID}, {0x20, other, noID}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// capability returns file capabilities in the form of their xattr
// (linux/capability.h, revision 2): permitted and effective.
func capability(permitted uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	b = binary.LittleEndian.AppendUint32(b, permitted)
	return append(b, make([]byte, 12)...)
}

func (m *maker) names() {
	m.dir("names", 0o755)
	for i, name := range []string{
		" ", "  leading and trailing  ", "-rf", "new\nline", "tab\t", "\x01\x1b[31m", "\\", "quote\"'", "*?[",
		"...", ".hidden", "..hidden", "\xff", "\xc3\x28", "\xed\xa0\x80", "ä", "a\u0308", "日本語", "😀",
		repeated("n", 255), repeated("\xfe", 255), repeated("ö", 254), ".wh.removed", "CON", "lost+found",
	} {
		m.file("names/"+name, 0o644, fmt.Appendf(nil, "%d\n", i))
	}
	m.dir("names/"+repeated("d", 255), 0o755)
	m.file("names/"+repeated("d", 255)+"/"+repeated("\xee", 255), 0o644, []byte("long\n"))
}

// deepLevels directories of 251 bytes each make a path of more than 4096.
const deepLevels = 20

// deep makes a path that no system call takes at once, one step at a time.
func (m *maker) deep() {
	m.dir("deep", 0o755)
	if m.err != nil {
		return
	}
	fd, err := unix.Open(m.path("deep"), unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if !m.check(err) {
		return
	}
	m.check(makeDeep(fd, 0))
	m.check(unix.Close(fd))
}

func makeDeep(parent, level int) error {
	if level == deepLevels {
		return fillDeepest(parent)
	}
	name := fmt.Sprintf("%02d-%s", level, repeated("deep", 248))
	if err := unix.Mkdirat(parent, name, 0o755); err != nil {
		return &os.PathError{Op: "mkdirat", Path: name, Err: err}
	}
	fd, err := unix.Openat(parent, name, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: name, Err: err}
	}
	err = makeDeep(fd, level+1)
	if err == nil {
		err = settle(fd, int64(level))
	}
	return join(err, unix.Close(fd))
}

func fillDeepest(dir int) error {
	fd, err := unix.Openat(dir, "bottom", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "openat", Path: "bottom", Err: err}
	}
	_, err = unix.Write(fd, []byte("a path beyond 4096 bytes\n"))
	if err == nil {
		err = settle(fd, deepLevels)
	}
	if err := join(err, unix.Close(fd)); err != nil {
		return err
	}
	if err := unix.Symlinkat("bottom", dir, "symlink"); err != nil {
		return err
	}
	ts := []unix.Timespec{{Sec: 1_500_000_000, Nsec: 1}, {Sec: 1_500_000_000, Nsec: 1}}
	if err := unix.UtimesNanoAt(dir, "symlink", ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Linkat(dir, "bottom", dir, "bottom-again", 0)
}

// settle gives what is open at fd a mode that no umask takes from and a time.
func settle(fd int, n int64) error {
	mode := uint32(0o755)
	if n == deepLevels {
		mode = 0o644
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	tv := []unix.Timeval{{Sec: 1_400_000_000 + n}, {Sec: 1_400_000_000 + n, Usec: n}}
	return unix.Futimes(fd, tv)
}

func join(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
