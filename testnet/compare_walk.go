package testnet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// openLevels is how many directories of the way down stay open in each tree.
// Those above are closed and, on the way back, opened again through "..".
const openLevels = 64

// level is a directory both trees have, on the way from the roots to where
// the walk is.
type level struct {
	a, b    openDir
	names   []bothName
	next    int // in names
	pathLen int // length of the path up to and with this directory
}

// bothName is a name that at least one of the two directories has.
type bothName struct {
	name     string
	inA, inB bool
}

// openDir is an open directory; fd is -1 while it is closed for a deep walk.
type openDir struct {
	fd int
	id fileID
}

// walk goes through both trees at once, depth first, names sorted.
func (c *comparer) walk(ctx context.Context, a, b string) (err error) {
	var stack []*level
	defer func() {
		for _, l := range stack {
			l.close()
		}
	}()
	root, err := c.openRoots(a, b)
	if err != nil {
		return err
	}
	stack = append(stack, root)
	path := []byte(nil)
	for len(stack) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		top := stack[len(stack)-1]
		if top.next == len(top.names) {
			stack = stack[:len(stack)-1]
			err := reopenAbove(stack, top)
			top.close()
			if err != nil {
				return err
			}
			continue
		}
		n := top.names[top.next]
		top.next++
		path = append(path[:top.pathLen], n.name...)
		below, err := c.compareEntry(ctx, top, n, string(path))
		if err != nil {
			return err
		}
		if below != nil {
			path = append(path, '/')
			below.pathLen = len(path)
			stack = append(stack, below)
			if over := len(stack) - 1 - openLevels; over >= 0 {
				stack[over].close()
			}
		}
	}
	return nil
}

func (c *comparer) openRoots(a, b string) (*level, error) {
	var sides [2]entry
	for i, root := range []string{a, b} {
		// The roots themselves may be named through symlinks.
		fd, err := openat(unix.AT_FDCWD, root, unix.O_DIRECTORY|unix.O_RDONLY)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", root, err)
		}
		defer closeFD(fd)
		sides[i] = newEntry(fd, ".")
		if err := sides[i].stat(); err != nil {
			return nil, err
		}
	}
	c.entries.Add(1)
	c.compareAttributes(".", &sides[0], &sides[1])
	l, err := c.descend(".", &sides[0], &sides[1])
	if l == nil && err == nil {
		err = errors.New("cannot be read")
	}
	return l, err
}

// compareEntry compares what stands at name in both directories. If it is a
// directory in both, it is returned opened.
func (c *comparer) compareEntry(ctx context.Context, l *level, n bothName, path string) (*level, error) {
	c.entries.Add(1)
	a, b := newEntry(l.a.fd, n.name), newEntry(l.b.fd, n.name)
	for _, side := range []struct {
		in bool
		e  *entry
	}{{n.inA, &a}, {n.inB, &b}} {
		if !side.in {
			continue
		}
		if err := side.e.stat(); err != nil {
			c.readError(path, n.inA && side.e == &a, err)
			return nil, nil
		}
	}
	if !n.inA || !n.inB {
		c.differ(path, "entry", a.presence(n.inA), b.presence(n.inB))
		return nil, nil
	}
	if a.typ() != b.typ() {
		c.differ(path, "type", typeName(a.typ()), typeName(b.typ()))
		return nil, nil
	}
	c.compareAttributes(path, &a, &b)
	switch a.typ() {
	case unix.S_IFDIR:
		return c.descend(path, &a, &b)
	case unix.S_IFREG:
		if done := c.compareLinks(path, &a, &b); !done && a.st.Size == b.st.Size {
			return nil, c.queueContent(ctx, path, &a, &b)
		}
	default:
		c.compareLinks(path, &a, &b)
	}
	return nil, nil
}

// descend opens the directory both entries are and reads its names. A
// directory that cannot be read is a difference.
func (c *comparer) descend(path string, a, b *entry) (*level, error) {
	l := &level{a: openDir{fd: -1}, b: openDir{fd: -1}}
	for i, side := range []struct {
		e   *entry
		dir *openDir
	}{{a, &l.a}, {b, &l.b}} {
		names, err := side.dir.open(side.e)
		if err != nil {
			l.close()
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
				return nil, err
			}
			c.readError(path, i == 0, err)
			return nil, nil
		}
		l.merge(names, i == 0)
	}
	return l, nil
}

// merge adds the sorted names of one tree; A's come first.
func (l *level) merge(names []string, fromA bool) {
	if fromA {
		for _, n := range names {
			l.names = append(l.names, bothName{name: n, inA: true})
		}
		return
	}
	ofA := l.names
	l.names = make([]bothName, 0, max(len(ofA), len(names)))
	for len(ofA) > 0 || len(names) > 0 {
		switch {
		case len(names) == 0 || len(ofA) > 0 && ofA[0].name < names[0]:
			l.names, ofA = append(l.names, ofA[0]), ofA[1:]
		case len(ofA) == 0 || names[0] < ofA[0].name:
			l.names, names = append(l.names, bothName{name: names[0], inB: true}), names[1:]
		default:
			l.names = append(l.names, bothName{name: names[0], inA: true, inB: true})
			ofA, names = ofA[1:], names[1:]
		}
	}
}

func (l *level) close() {
	l.a.close()
	l.b.close()
}

func (d *openDir) open(e *entry) (names []string, err error) {
	d.fd, err = openat(e.fd, e.name, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_NOFOLLOW)
	if err != nil {
		d.fd = -1
		return nil, err
	}
	d.id = e.id()
	buf := make([]byte, 64<<10)
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(d.fd, buf) })
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	slices.Sort(names)
	return names, nil
}

func (d *openDir) close() {
	if d.fd >= 0 {
		closeFD(d.fd)
		d.fd = -1
	}
}

// reopenAbove makes sure that the level above child is open again.
func reopenAbove(stack []*level, child *level) error {
	if len(stack) == 0 {
		return nil
	}
	above := stack[len(stack)-1]
	for _, side := range [][2]*openDir{{&above.a, &child.a}, {&above.b, &child.b}} {
		up, down := side[0], side[1]
		if up.fd >= 0 {
			continue
		}
		fd, err := openat(down.fd, "..", unix.O_DIRECTORY|unix.O_RDONLY)
		if err != nil {
			return fmt.Errorf("go back up: %w", err)
		}
		up.fd = fd
		e := newEntry(fd, ".")
		if err := e.stat(); err != nil {
			return fmt.Errorf("go back up: %w", err)
		}
		if e.id() != up.id {
			return errors.New("a directory was moved while it was compared")
		}
	}
	return nil
}
