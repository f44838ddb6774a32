package mount_test

import (
	"fmt"
	"hash/crc32"
	"net"

	"golang.org/x/sys/unix"
)

// everything are the names in the tree of the calls; two of them do not lead to a file.
var everything = []string{"file", "program", "private", "empty", "dir", "emptydir", "link", "dangling", "fifo", "null", "sock", "nothing", "nothing/below", "file/below", "dir/inner", "."}

// changingCalls are those that would change something, on files of each kind,
// and some beside them that must be told apart.
func changingCalls() map[string]call {
	calls := map[string]call{}
	times := make([]unix.Timespec, 2)
	omit := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	for what, flags := range map[string]int{
		"write": unix.O_WRONLY, "read and write": unix.O_RDWR, "append": unix.O_WRONLY | unix.O_APPEND, "truncate": unix.O_TRUNC,
		"write and truncate": unix.O_WRONLY | unix.O_TRUNC, "create": unix.O_CREAT, "create to write": unix.O_CREAT | unix.O_WRONLY,
		"create exclusively": unix.O_CREAT | unix.O_EXCL, "tmpfile": unix.O_TMPFILE | unix.O_RDWR,
		"write, no follow": unix.O_WRONLY | unix.O_NOFOLLOW, "path": unix.O_PATH | unix.O_WRONLY, "direct write": unix.O_WRONLY | unix.O_DIRECT,
	} {
		for _, name := range everything {
			calls["open "+name+" to "+what] = open(name, flags)
		}
	}
	for what, do := range map[string]func(path string) error{
		"mkdir": func(p string) error { return unix.Mkdir(p, 0o700) }, "rmdir": unix.Rmdir, "unlink": unix.Unlink,
		"mknod": func(p string) error { return unix.Mknod(p, unix.S_IFREG|0o600, 0) }, "mkfifo": func(p string) error { return unix.Mkfifo(p, 0o600) },
		"make device":     func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		"make whiteout":   func(p string) error { return unix.Mknod(p, unix.S_IFCHR, 0) },
		"symlink":         func(p string) error { return unix.Symlink("target", p) },
		"truncate":        func(p string) error { return unix.Truncate(p, 1) },
		"truncate beyond": func(p string) error { return unix.Truncate(p, 1<<62) },
		"chmod":           func(p string) error { return unix.Chmod(p, 0o644) },
		"chmod, no follow": func(p string) error {
			return unix.Fchmodat(unix.AT_FDCWD, p, 0o644, unix.AT_SYMLINK_NOFOLLOW)
		},
		"chown": func(p string) error { return unix.Chown(p, 65534, 65534) }, "lchown": func(p string) error { return unix.Lchown(p, 65534, 65534) },
		"chown to nobody": func(p string) error { return unix.Chown(p, -1, -1) },
		"utimes":          func(p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, times, 0) },
		"utimes of link":  func(p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, times, unix.AT_SYMLINK_NOFOLLOW) },
		"utimes, none":    func(p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, omit, 0) },
		"utimes, now":     func(p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, now, 0) },
		"setxattr":        func(p string) error { return unix.Lsetxattr(p, "user.x", []byte("1"), 0) },
		"create xattr":    func(p string) error { return unix.Lsetxattr(p, "user.x", []byte("1"), unix.XATTR_CREATE) },
		"replace xattr":   func(p string) error { return unix.Lsetxattr(p, "user.y", []byte("1"), unix.XATTR_REPLACE) },
		"trusted xattr":   func(p string) error { return unix.Lsetxattr(p, "trusted.x", []byte("1"), 0) },
		"security xattr":  func(p string) error { return unix.Lsetxattr(p, "security.x", []byte("1"), 0) },
		"odd xattr":       func(p string) error { return unix.Lsetxattr(p, "odd.x", []byte("1"), 0) },
		"set ACL":         func(p string) error { return unix.Setxattr(p, "system.posix_acl_access", minimalACL, 0) },
		"remove ACL":      func(p string) error { return unix.Removexattr(p, "system.posix_acl_access") },
		"removexattr":     func(p string) error { return unix.Lremovexattr(p, "user.x") },
		"remove no xattr": func(p string) error { return unix.Lremovexattr(p, "user.nothing") },
		"access to write": func(p string) error { return unix.Access(p, unix.W_OK) },
		"effective access to write": func(p string) error {
			return unix.Faccessat(unix.AT_FDCWD, p, unix.W_OK, unix.AT_EACCESS)
		},
		"bind": func(p string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
			if err == nil {
				l.Close()
			}
			return err
		},
	} {
		for _, name := range everything {
			calls[what+" "+name] = on(name, do)
		}
	}
	for what, flags := range map[string]uint{"rename": 0, "exchange": unix.RENAME_EXCHANGE, "rename, replace nothing": unix.RENAME_NOREPLACE, "rename with whiteout": unix.RENAME_WHITEOUT} {
		for _, pair := range pairs {
			calls[fmt.Sprintf("%s %s to %s", what, pair[0], pair[1])] = between(pair[0], pair[1], func(a, b string) error {
				return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags)
			})
		}
	}
	for _, pair := range pairs {
		calls[fmt.Sprintf("link %s to %s", pair[0], pair[1])] = between(pair[0], pair[1], unix.Link)
	}
	for what, do := range map[string]func(fd int) error{
		"ftruncate": func(fd int) error { return unix.Ftruncate(fd, 1) }, "fchmod": func(fd int) error { return unix.Fchmod(fd, 0o644) },
		"fchown": func(fd int) error { return unix.Fchown(fd, 1, 1) }, "fsetxattr": func(fd int) error { return unix.Fsetxattr(fd, "user.x", []byte("1"), 0) },
		"fremovexattr": func(fd int) error { return unix.Fremovexattr(fd, "user.x") },
		"pwrite":       func(fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err },
		"write":        func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err },
		"fallocate":    func(fd int) error { return unix.Fallocate(fd, 0, 0, 10) },
		"punch": func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 10)
		},
		"mkdirat":  func(fd int) error { return unix.Mkdirat(fd, "new", 0o700) },
		"unlinkat": func(fd int) error { return unix.Unlinkat(fd, "inner", 0) },
		"fsync":    unix.Fsync, "fdatasync": unix.Fdatasync, "syncfs": unix.Syncfs,
		"copy_file_range":     func(fd int) error { _, err := unix.CopyFileRange(fd, nil, fd, nil, 10, 0); return err },
		"clone":               func(fd int) error { return unix.IoctlFileClone(fd, fd) },
		"map shared to write": func(fd int) error { return mapped(fd, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED) },
		"write lock": func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		},
		"write lease": func(fd int) error { _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); return err },
		"set flags":   func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, 0) },
	} {
		for _, name := range []string{"file", "dir", "empty"} {
			calls[what+" on "+name] = opened(name, unix.O_RDONLY, func(fd int) (any, error) { return nil, do(fd) })
		}
	}
	return calls
}

// minimalACL is user::rw-, group::r--, other::r--.
var minimalACL = []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x04\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")

// mapped maps a file and does not touch it: this process serves it, too.
func mapped(fd, prot, flags int) error {
	b, err := unix.Mmap(fd, 0, 100, prot, flags)
	if err != nil {
		return err
	}
	return unix.Munmap(b)
}

// pairs are the names renames and links are tried with.
var pairs = [][2]string{
	{"file", "new"}, {"file", "empty"}, {"file", "file"}, {"file", "other name"}, {"file", "dir"}, {"file", "nothing/below"}, {"file", "file/below"},
	{"dir", "new"}, {"dir", "emptydir"}, {"dir", "file"}, {"dir", "dir/inner/below"}, {"dir", "dir/below"}, {"emptydir", "dir"}, {"nothing", "new"}, {"nothing", "file"},
	{"link", "new"}, {"dangling", "file"}, {"fifo", "new"}, {".", "new"}, {"file", "."}, {"private", "new"}, {"file", "dir/inner"}, {"file", "/proc/self/new"},
}

// lookingCalls are those that change nothing.
func lookingCalls() map[string]call {
	calls := map[string]call{}
	for what, flags := range map[string]int{
		"read": unix.O_RDONLY, "path": unix.O_PATH, "directory": unix.O_DIRECTORY, "no follow": unix.O_NOFOLLOW, "direct": unix.O_DIRECT,
		"noatime": unix.O_NOATIME, "sync": unix.O_SYNC, "path, no follow": unix.O_PATH | unix.O_NOFOLLOW,
	} {
		for _, name := range everything {
			calls["open "+name+", "+what] = open(name, flags)
		}
	}
	for what, mode := range map[string]uint32{"exist": unix.F_OK, "read": unix.R_OK, "execute": unix.X_OK, "read and execute": unix.R_OK | unix.X_OK} {
		for _, name := range everything {
			calls["access "+name+" to "+what] = on(name, func(p string) error { return unix.Access(p, mode) })
		}
	}
	read := func(fd, size int, off int64) (any, error) {
		b := make([]byte, size)
		n, err := unix.Pread(fd, b, off)
		return fmt.Sprint(n, crc32.ChecksumIEEE(b[:max(n, 0)])), err
	}
	for what, do := range map[string]func(fd int) (any, error){
		"read all":        func(fd int) (any, error) { return read(fd, 2<<20, 0) },
		"read the end":    func(fd int) (any, error) { return read(fd, 4096, 299_000) },
		"read behind":     func(fd int) (any, error) { return read(fd, 4096, 1<<40) },
		"read nothing":    func(fd int) (any, error) { return read(fd, 0, 0) },
		"read at minus 1": func(fd int) (any, error) { return read(fd, 1, -1) },
		"lock shared":     func(fd int) (any, error) { return nil, unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) },
		"lock alone":      func(fd int) (any, error) { return nil, unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) },
		"read lock": func(fd int) (any, error) {
			return nil, unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_RDLCK})
		},
		"read lock of the opened file": func(fd int) (any, error) {
			return nil, unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK})
		},
		"get lock": func(fd int) (any, error) {
			l := unix.Flock_t{Type: unix.F_WRLCK}
			err := unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &l)
			return l.Type, err
		},
		"map shared":   func(fd int) (any, error) { return nil, mapped(fd, unix.PROT_READ, unix.MAP_SHARED) },
		"map a copy":   func(fd int) (any, error) { return nil, mapped(fd, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE) },
		"readahead":    func(fd int) (any, error) { return nil, unix.Fadvise(fd, 0, 4096, unix.FADV_WILLNEED) },
		"data at 0":    func(fd int) (any, error) { return unix.Seek(fd, 0, unix.SEEK_DATA) },
		"hole at 0":    func(fd int) (any, error) { return unix.Seek(fd, 0, unix.SEEK_HOLE) },
		"hole at 9000": func(fd int) (any, error) { return unix.Seek(fd, 9000, unix.SEEK_HOLE) },
		"data at 9000": func(fd int) (any, error) { return unix.Seek(fd, 9000, unix.SEEK_DATA) },
		"data behind":  func(fd int) (any, error) { return unix.Seek(fd, 1<<40, unix.SEEK_DATA) },
		"seek to -1":   func(fd int) (any, error) { return unix.Seek(fd, -1, unix.SEEK_SET) },
		"seek oddly":   func(fd int) (any, error) { return unix.Seek(fd, 0, 99) },
		"getdents": func(fd int) (any, error) {
			n, err := unix.Getdents(fd, make([]byte, 8)) // too small for an entry
			return n, err
		},
		"flags": func(fd int) (any, error) {
			var st unix.Statfs_t
			err := unix.Fstatfs(fd, &st)
			return st.Flags & unix.ST_RDONLY, err
		},
		"odd ioctl":  func(fd int) (any, error) { return unix.IoctlGetInt(fd, 0xf00d) },
		"read lease": func(fd int) (any, error) { return unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK) },
	} {
		for _, name := range []string{"file", "dir", "empty", "sparse"} {
			calls[what+" of "+name] = opened(name, unix.O_RDONLY, do)
		}
	}
	for what, do := range map[string]func(p string) (any, error){
		"getxattr": func(p string) (any, error) { return unix.Lgetxattr(p, "user.x", make([]byte, 10)) }, "trusted xattr": func(p string) (any, error) { return unix.Lgetxattr(p, "trusted.x", nil) },
		"odd xattr": func(p string) (any, error) { return unix.Lgetxattr(p, "odd.x", nil) }, "ACL": func(p string) (any, error) { return unix.Lgetxattr(p, "system.posix_acl_access", nil) },
		"default ACL":       func(p string) (any, error) { return unix.Lgetxattr(p, "system.posix_acl_default", nil) },
		"listxattr":         func(p string) (any, error) { return unix.Llistxattr(p, nil) },
		"readlink":          func(p string) (any, error) { return unix.Readlink(p, make([]byte, 3)) },
		"a missing name":    func(p string) (any, error) { return nil, unix.Access(p+"/no", unix.F_OK) },
		"name of 256 bytes": func(p string) (any, error) { return nil, unix.Access(fmt.Sprintf("%s/%0256d", p, 0), unix.F_OK) },
		"stat": func(p string) (any, error) {
			var st unix.Stat_t
			err := unix.Lstat(p, &st)
			return fmt.Sprintf("%o %d %d %d %d", st.Mode, st.Uid, st.Gid, st.Nlink, st.Size), err
		},
	} {
		for _, name := range everything {
			calls[what+" of "+name] = func(at func(string) string) (any, error) { return do(at(name)) }
		}
	}
	return calls
}
