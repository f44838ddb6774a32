package pack

import (
	"strings"

	"golang.org/x/sys/unix"
)

// dirCacheSize is how many directories stay open for opening others in them.
const dirCacheSize = 32

// dirCache opens directories of the walk, each from its parent where that is
// still open, so that paths of any length work and no symlink is followed.
// Only the walker uses it.
type dirCache struct {
	opener *opener
	root   *openDir
	nodes  [dirCacheSize]*dirNode
	dirs   [dirCacheSize]*openDir
	next   int // the oldest
}

func (c *dirCache) close() {
	for _, d := range c.dirs {
		if d != nil {
			d.release()
		}
	}
}

// open returns directory n, which the caller releases.
func (c *dirCache) open(n *dirNode) (*openDir, error) {
	if n.parent == nil {
		return c.root.hold(), nil
	}
	parent := c.get(n.parent)
	if parent == nil {
		fd, err := c.openFar(n.parent)
		if err != nil {
			return nil, err
		}
		parent = c.add(n.parent, fd)
	}
	fd, err := c.opener.open(parent.fd, n.name, unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	return c.add(n, fd).hold(), nil
}

func (c *dirCache) get(n *dirNode) *openDir {
	if n.parent == nil {
		return c.root
	}
	for i, m := range c.nodes {
		if m == n {
			return c.dirs[i]
		}
	}
	return nil
}

// add keeps fd as that of n in the place of the oldest directory.
func (c *dirCache) add(n *dirNode, fd int) *openDir {
	if old := c.dirs[c.next]; old != nil {
		old.release()
	}
	d := newOpenDir(fd)
	c.nodes[c.next], c.dirs[c.next] = n, d
	c.next = (c.next + 1) % dirCacheSize
	return d
}

// openFar opens n from its nearest ancestor that is open, by pieces of the
// path that are short enough for the kernel.
func (c *dirCache) openFar(n *dirNode) (int, error) {
	var names []string
	base := c.get(n)
	for ; base == nil; base = c.get(n) {
		names = append(names, n.name)
		n = n.parent
	}
	fd := base.fd
	for len(names) > 0 {
		var piece strings.Builder
		for len(names) > 0 && piece.Len()+len(names[len(names)-1]) < unix.PathMax-2 {
			if piece.Len() > 0 {
				piece.WriteByte('/')
			}
			piece.WriteString(names[len(names)-1])
			names = names[:len(names)-1]
		}
		next, err := openBelow(fd, piece.String())
		if fd != base.fd {
			unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// openBelow opens the directory path below fd without following a symlink.
func openBelow(fd int, path string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	how := unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH}
	for {
		next, err := unix.Openat2(fd, path, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN:
			continue
		case unix.ENOSYS, unix.EPERM: // before Linux 5.6, or a sandbox
			return openSteps(fd, path, flags)
		}
		return next, err
	}
}

// openSteps is openBelow name by name.
func openSteps(base int, path string, flags int) (int, error) {
	fd := base
	for name := range strings.SplitSeq(path, "/") {
		next, err := openRetry(fd, name, flags)
		if fd != base {
			unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}
