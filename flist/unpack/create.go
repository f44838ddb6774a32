package unpack

import (
	"context"
	"errors"
	"fmt"

	"github.com/flistnode/flistnode/flist"
	"golang.org/x/sys/unix"
)

// firstName is where the first name of an inode with several was made.
type firstName struct {
	dir   flist.Inode
	entry int
	lost  bool // it could not be made, so there is nothing to link to
}

var errNoFirstName = errors.New("its first name could not be made")

// makeEntry makes the entry i of the open directory l, which is none itself.
func (r *run) makeEntry(ctx context.Context, l *level, i int) error {
	name, ino := r.im.Entry(i)
	if err := checkName(name); err != nil {
		return err
	}
	attr := r.im.Attr(ino)
	first, again := r.firstNames[ino]
	if again && first.lost {
		r.losses.add(typeName(attr.Mode&unix.S_IFMT), r.pathIn(l.ino, name), errNoFirstName)
		return nil
	}
	made := true
	var err error
	switch attr.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if again {
			err = r.link(l, name, first)
		} else {
			err = r.makeFile(ctx, l, string(name), ino, attr)
		}
	default:
		if again {
			err = r.link(l, name, first)
		} else {
			made, err = r.makeOther(l, string(name), ino, attr)
		}
	}
	if err != nil {
		return err
	}
	if !again && attr.Nlink > 1 {
		r.firstNames[ino] = firstName{dir: l.ino, entry: i, lost: !made}
	}
	if made {
		r.entries.Add(1)
	}
	return nil
}

// link makes a further name for what stands at first.
func (r *run) link(l *level, name []byte, first firstName) error {
	firstEntry, _ := r.im.Entry(first.entry)
	from := l.fd
	if first.dir != l.ino {
		var err error
		if from, err = openBeneath(r.target.fd, r.im.Path(first.dir)); err != nil {
			return fmt.Errorf("open %s to link from: %w", r.path(first.dir), err)
		}
		defer closeFD(from)
	}
	return r.create(l.fd, string(name), "link", func() error {
		return unix.Linkat(from, string(firstEntry), l.fd, string(name), 0)
	})
}

// makeOther makes a symlink, FIFO, socket or device. It reports whether that
// was possible.
func (r *run) makeOther(l *level, name string, ino flist.Inode, attr flist.Attr) (made bool, err error) {
	typ := attr.Mode & unix.S_IFMT
	switch typ {
	case unix.S_IFLNK:
		target := string(r.im.Target(ino))
		err = r.create(l.fd, name, "symlink", func() error { return unix.Symlinkat(target, l.fd, name) })
	case unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
		err = r.create(l.fd, name, "mknod", func() error {
			return unix.Mknodat(l.fd, name, typ|0o600, int(attr.Rdev))
		})
		if err != nil {
			return false, r.lose(typeName(typ), ino, err)
		}
	default:
		err = fmt.Errorf("unknown file type %#o", typ)
	}
	if err != nil {
		return false, err
	}
	fd, err := openat(l.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	defer closeFD(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != typ || st.Nlink != 1 {
		return false, errors.Join(errors.New("somebody replaced it meanwhile"), err)
	}
	return true, r.restore(node{fd: fd, ino: ino, pathOnly: true})
}

func typeName(typ uint32) string {
	switch typ {
	case unix.S_IFIFO:
		return "FIFO"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "device"
}

// create runs make, which makes name in dir. When overwriting, what stands
// there is removed first, unless it is a directory.
func (r *run) create(dir int, name, what string, make func() error) error {
	err := make()
	if errors.Is(err, unix.EEXIST) && r.opts.Overwrite {
		if err := unix.Unlinkat(dir, name, 0); errors.Is(err, unix.EISDIR) {
			return fmt.Errorf("a directory is in the way: %w", unix.EEXIST)
		} else if err != nil {
			return fmt.Errorf("remove what stands there: %w", err)
		}
		err = make()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
