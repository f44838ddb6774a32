package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// entry is a name in an open directory, seen without following it.
type entry struct {
	fd   int // of the directory
	name string
	via  string // a path to the entry for calls that know no directory
	st   unix.Statx_t
}

func newEntry(dir int, name string) entry {
	return entry{fd: dir, name: name, via: fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)}
}

func (e *entry) stat() error {
	_, err := retry(func() (int, error) {
		return 0, unix.Statx(e.fd, e.name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &e.st)
	})
	return err
}

func (e *entry) typ() uint32 { return uint32(e.st.Mode) & unix.S_IFMT }

func (e *entry) id() fileID {
	return fileID{dev: unix.Mkdev(e.st.Dev_major, e.st.Dev_minor), ino: e.st.Ino}
}

func (e *entry) presence(there bool) string {
	if !there {
		return "absent"
	}
	return typeName(e.typ())
}

func typeName(typ uint32) string {
	names := map[uint32]string{
		unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symlink", unix.S_IFIFO: "FIFO",
		unix.S_IFSOCK: "socket", unix.S_IFCHR: "character device", unix.S_IFBLK: "block device",
	}
	if s, ok := names[typ]; ok {
		return s
	}
	return fmt.Sprintf("type %#o", typ)
}

// compareAttributes compares what stat, readlink and xattrs tell of two
// entries of one type.
func (c *comparer) compareAttributes(path string, a, b *entry) {
	x, y := &a.st, &b.st
	numbers := []struct {
		what   string
		format string
		a, b   uint64
		leave  bool
	}{
		{"mode", "%04o", uint64(x.Mode & 0o7777), uint64(y.Mode & 0o7777), false},
		{"uid", "%d", uint64(x.Uid), uint64(y.Uid), false},
		{"gid", "%d", uint64(x.Gid), uint64(y.Gid), false},
		{"nlink", "%d", uint64(x.Nlink), uint64(y.Nlink), c.opts.NoDirNlink && a.typ() == unix.S_IFDIR || c.countsInside(a)},
		{"size", "%d", x.Size, y.Size, a.typ() != unix.S_IFREG},
	}
	for _, n := range numbers {
		if n.a != n.b && !n.leave {
			c.differ(path, n.what, fmt.Sprintf(n.format, n.a), fmt.Sprintf(n.format, n.b))
		}
	}
	if x.Rdev_major != y.Rdev_major || x.Rdev_minor != y.Rdev_minor {
		c.differ(path, "device", fmt.Sprintf("%d:%d", x.Rdev_major, x.Rdev_minor), fmt.Sprintf("%d:%d", y.Rdev_major, y.Rdev_minor))
	}
	if s, t := timeName(x.Mtime), timeName(y.Mtime); s != t {
		c.differ(path, "mtime", s, t)
	}
	if s, t := a.birth(), b.birth(); s != t && c.opts.BirthTime {
		c.differ(path, "birth time", s, t)
	}
	if a.typ() == unix.S_IFLNK {
		c.compareTargets(path, a, b)
	}
	c.compareXattrs(path, a, b)
}

func (e *entry) birth() string {
	if e.st.Mask&unix.STATX_BTIME == 0 {
		return "none"
	}
	return timeName(e.st.Btime)
}

func timeName(t unix.StatxTimestamp) string {
	return time.Unix(t.Sec, int64(t.Nsec)).UTC().Format(time.RFC3339Nano)
}

func (c *comparer) compareTargets(path string, a, b *entry) {
	var targets [2]string
	for i, e := range []*entry{a, b} {
		buf := make([]byte, unix.PathMax+1)
		n, err := retry(func() (int, error) { return unix.Readlinkat(e.fd, e.name, buf) })
		if err != nil {
			c.readError(path, i == 0, err)
			return
		}
		targets[i] = string(buf[:n])
	}
	if targets[0] != targets[1] {
		c.differ(path, "symlink target", fmt.Sprintf("%q", targets[0]), fmt.Sprintf("%q", targets[1]))
	}
}

func (c *comparer) compareXattrs(path string, a, b *entry) {
	xa, err := a.xattrs()
	if err != nil {
		c.readError(path, true, err)
		return
	}
	xb, err := b.xattrs()
	if err != nil {
		c.readError(path, false, err)
		return
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(xa)), maps.Keys(xb))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if c.opts.IgnoreXattr != nil && c.opts.IgnoreXattr(name) {
			continue
		}
		va, inA := xa[name]
		vb, inB := xb[name]
		if inA != inB || !bytes.Equal(va, vb) {
			c.differ(path, "xattr "+name, valueName(va, inA), valueName(vb, inB))
		}
	}
}

func valueName(v []byte, there bool) string {
	switch {
	case !there:
		return "absent"
	case len(v) > 64:
		return fmt.Sprintf("%q... (%d bytes)", v[:64], len(v))
	}
	return fmt.Sprintf("%q", v)
}

// maxXattr is the most a list of names and a value can take (linux/limits.h).
const maxXattr = 64 << 10

// xattrs returns all extended attributes; none where the file system has none.
func (e *entry) xattrs() (map[string][]byte, error) {
	n, err := retry(func() (int, error) { return unix.Llistxattr(e.via, nil) })
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
		return nil, nil
	}
	buf := make([]byte, maxXattr)
	if err == nil {
		n, err = retry(func() (int, error) { return unix.Llistxattr(e.via, buf) })
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	values := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		n, err := retry(func() (int, error) { return unix.Lgetxattr(e.via, name, buf) })
		if err != nil {
			return nil, fmt.Errorf("get xattr %q: %w", name, err)
		}
		values[name] = bytes.Clone(buf[:n])
	}
	return values, nil
}

// compareLinks compares which other names the entries have. It returns true
// if the same two inodes were compared before, under another name.
func (c *comparer) compareLinks(path string, a, b *entry) (done bool) {
	if a.st.Nlink < 2 && b.st.Nlink < 2 {
		return false
	}
	if c.countsInside(a) {
		c.inside[a.id()] = insideLinks{path: path, met: c.inside[a.id()].met + 1, links: b.st.Nlink}
	}
	firstA, firstB, same := c.links.add(path, a.id(), b.id(), a.st.Nlink, b.st.Nlink)
	if firstA != firstB || firstA != "" && !same {
		c.differ(path, "hard link", linkName(firstA), linkName(firstB))
	}
	return same
}

// countsInside reports whether the names of a are counted instead of comparing
// its link count.
func (c *comparer) countsInside(a *entry) bool {
	return c.opts.LinksInside && a.typ() != unix.S_IFDIR && a.st.Nlink > 1
}

// compareInside compares the names that were counted.
func (c *comparer) compareInside() {
	for _, l := range c.inside {
		if l.met != l.links {
			c.differ(l.path, "nlink", fmt.Sprintf("%d names", l.met), fmt.Sprint(l.links))
		}
	}
}

func linkName(first string) string {
	if first == "" {
		return "no earlier name"
	}
	return fmt.Sprintf("same file as %q", first)
}

// readError records that an entry of A or B could not be read.
func (c *comparer) readError(path string, ofA bool, err error) {
	if ofA {
		c.differ(path, "read", err.Error(), "not compared")
	} else {
		c.differ(path, "read", "not compared", err.Error())
	}
}
