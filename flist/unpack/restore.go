package unpack

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/flistnode/flistnode/flist"
	"golang.org/x/sys/unix"
)

// node is an open entry of the target.
type node struct {
	fd       int
	ino      flist.Inode
	pathOnly bool // fd is an O_PATH descriptor
	reused   bool // a directory that was there before
}

// restore gives n the attributes of its inode in the order in which none
// undoes another: content is there already, and a change of owner clears
// setuid and capabilities, so owner, xattrs, mode, times.
func (r *run) restore(n node) error {
	attr := r.im.Attr(n.ino)
	mode, err := r.restoreOwner(n, attr)
	if err == nil {
		err = r.restoreXattrs(n)
	}
	if err == nil {
		err = r.restoreMode(n, mode)
	}
	if err == nil {
		err = r.restoreTime(n, attr.Mtime)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.path(n.ino), err)
	}
	return nil
}

// restoreOwner returns the mode that is fit for the owner n has got: where an
// id could not be set, its set-id bit must not be either.
func (r *run) restoreOwner(n node, attr flist.Attr) (mode uint32, err error) {
	mode = attr.Mode
	both := chown(n.fd, attr.UID, attr.GID)
	if both == nil {
		return mode, nil
	}
	if r.strict {
		return mode, fmt.Errorf("set owner %d:%d: %w", attr.UID, attr.GID, both)
	}
	for _, part := range []struct {
		what, bitName string
		uid, gid, bit uint32
	}{{"group", "setgid bit", keepID, attr.GID, unix.S_ISGID}, {"owner", "setuid bit", attr.UID, keepID, unix.S_ISUID}} {
		var err error
		if attr.UID == keepID || attr.GID == keepID {
			err = both
		} else {
			err = chown(n.fd, part.uid, part.gid)
		}
		if err == nil {
			continue
		}
		if err := r.lose(part.what, n.ino, err); err != nil {
			return mode, err
		}
		if mode&part.bit != 0 && mode&unix.S_IFMT != unix.S_IFLNK {
			mode &^= part.bit
			r.losses.add(part.bitName, r.path(n.ino), errOtherOwner)
		}
	}
	return mode, nil
}

var errOtherOwner = errors.New("the file has another owner or group than in the image")

// keepID means "leave as it is" to chown(2), so no file can have it.
const keepID = math.MaxUint32

func chown(fd int, uid, gid uint32) error {
	if uid == keepID && gid == keepID {
		return unix.EINVAL
	}
	return unix.Fchownat(fd, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH)
}

func (r *run) restoreXattrs(n node) error {
	if n.reused || n.ino == flist.RootInode {
		r.removeOtherXattrs(n)
	}
	for name, value := range r.im.Xattrs(n.ino) {
		var err error
		if n.pathOnly {
			err = unix.Setxattr(fdPath(n.fd), string(name), value, 0)
		} else {
			err = unix.Fsetxattr(n.fd, string(name), value, 0)
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("set xattr %q of %d bytes: %w", name, len(value), err)
		if err := r.lose("xattr "+namespace(name), n.ino, err); err != nil {
			return err
		}
	}
	return nil
}

// namespace returns "user." of "user.x"; the names with a meaning of their
// own stay whole.
func namespace(name []byte) string {
	if i := bytes.IndexByte(name, '.'); i > 0 && !bytes.HasPrefix(name, []byte("system.")) && string(name) != capabilityName {
		return string(name[:i+1])
	}
	return string(name)
}

const capabilityName = "security.capability"

// removeOtherXattrs removes from a directory that was there before what the
// image does not name. What a security module put there stays.
func (r *run) removeOtherXattrs(n node) {
	buf := make([]byte, 64<<10)
	size, err := unix.Flistxattr(n.fd, buf)
	if err != nil {
		return
	}
	for name := range strings.SplitSeq(string(buf[:size]), "\x00") {
		if name == "" || strings.HasPrefix(name, "security.") {
			continue
		}
		if _, wanted := r.im.Xattr(n.ino, []byte(name)); !wanted {
			if err := unix.Fremovexattr(n.fd, name); err != nil {
				r.losses.add("xattr that was there before", r.path(n.ino), err)
			}
		}
	}
}

func (r *run) restoreMode(n node, mode uint32) error {
	perm := mode & 0o7777
	switch mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return nil
	case unix.S_IFDIR:
		if n.ino != flist.RootInode && perm&0o700 != 0o700 && os.Geteuid() != 0 {
			r.closed = append(r.closed, closedDir{n.ino, perm})
			return nil
		}
	}
	var err error
	if n.pathOnly {
		err = unix.Chmod(fdPath(n.fd), perm)
	} else {
		err = unix.Fchmod(n.fd, perm)
	}
	if err != nil {
		return r.lose("mode", n.ino, fmt.Errorf("set mode %04o: %w", perm, err))
	}
	return nil
}

// closedDir is a directory with a mode that keeps its owner, who is not root,
// from working in it; so the mode is set when all is done.
type closedDir struct {
	ino  flist.Inode
	perm uint32
}

// closeDir sets the mode of d. Its time is set already and stays.
func (r *run) closeDir(d closedDir) error {
	fd, err := openBeneath(r.target.fd, r.im.Path(d.ino))
	if err != nil {
		return fmt.Errorf("%s: %w", r.path(d.ino), err)
	}
	defer closeFD(fd)
	if err := unix.Chmod(fdPath(fd), d.perm); err != nil {
		return fmt.Errorf("%s: set mode %04o: %w", r.path(d.ino), d.perm, err)
	}
	return nil
}

func (r *run) restoreTime(n node, t flist.Time) error {
	ts := []unix.Timespec{{Sec: t.Sec, Nsec: int64(t.Nsec)}, {Sec: t.Sec, Nsec: int64(t.Nsec)}}
	if err := unix.UtimesNanoAt(n.fd, "", ts, unix.AT_EMPTY_PATH); err != nil {
		return r.lose("mtime", n.ino, fmt.Errorf("set mtime: %w", err))
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Mtim.Sec != t.Sec || st.Mtim.Nsec != int64(t.Nsec) {
		r.losses.add("mtime", r.path(n.ino), fmt.Errorf("the file system keeps %d.%09d s for %d.%09d s", st.Mtim.Sec, st.Mtim.Nsec, t.Sec, t.Nsec))
	}
	return nil
}
