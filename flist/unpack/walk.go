package unpack

import (
	"context"
	"errors"
	"fmt"

	"github.com/flistnode/flistnode/flist"
	"golang.org/x/sys/unix"
)

// openLevels is how many directories of the way down stay open. Those above
// are closed and, on the way back, opened again through "..".
const openLevels = 64

// level is a directory on the way from the root to where the walk is.
type level struct {
	node
	dev, number uint64 // what it is on disk
	next, end   int    // entries still to be looked at for subdirectories
}

// walk makes every entry, depth first, in each directory first all that are
// not directories: so a directory's small files, which share chunks, are
// written together. A directory gets its attributes when all is in it.
func (r *run) walk(ctx context.Context) (err error) {
	var stack []*level
	defer func() {
		for _, l := range stack {
			l.close()
		}
		if err == nil {
			err = r.flush(ctx)
		}
		r.abandon(r.batch)
	}()
	fd, err := openat(r.target.fd, ".", unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	root, err := r.enter(ctx, node{fd: fd, ino: flist.RootInode})
	if root != nil {
		stack = append(stack, root)
	}
	for err == nil && len(stack) > 0 {
		if err = ctx.Err(); err != nil {
			return err
		}
		top := stack[len(stack)-1]
		below, more := r.nextDir(top)
		if !more {
			stack = stack[:len(stack)-1]
			err = r.leave(stack, top)
			continue
		}
		var l *level
		if l, err = r.makeDir(ctx, top, below); l != nil {
			stack = append(stack, l)
			if over := len(stack) - 1 - openLevels; over >= 0 {
				stack[over].close()
			}
		}
	}
	return err
}

// nextDir returns the next entry of l that is a directory.
func (r *run) nextDir(l *level) (entry int, ok bool) {
	for ; l.next < l.end; l.next++ {
		if _, ino := r.im.Entry(l.next); fileType(r.im, ino) == unix.S_IFDIR {
			l.next++
			return l.next - 1, true
		}
	}
	return 0, false
}

// enter makes everything in the directory n that is not a directory. It owns
// n.fd, also when it fails.
func (r *run) enter(ctx context.Context, n node) (*level, error) {
	l := &level{node: n}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		l.close()
		return nil, err
	}
	l.dev, l.number = st.Dev, st.Ino
	l.next, l.end = r.im.Entries(n.ino)
	for i := l.next; i < l.end && ctx.Err() == nil; i++ {
		name, ino := r.im.Entry(i)
		if fileType(r.im, ino) == unix.S_IFDIR {
			continue
		}
		if err := r.makeEntry(ctx, l, i); err != nil {
			l.close()
			return nil, fmt.Errorf("%s: %w", r.pathIn(n.ino, name), err)
		}
	}
	return l, nil // walk looks at ctx
}

// makeDir makes or, when overwriting, takes over the directory at an entry.
func (r *run) makeDir(ctx context.Context, parent *level, entry int) (*level, error) {
	name, ino := r.im.Entry(entry)
	n, err := r.openDir(parent.fd, name, ino)
	if err != nil {
		return nil, fmt.Errorf("%s: make directory: %w", r.pathIn(parent.ino, name), err)
	}
	r.entries.Add(1)
	return r.enter(ctx, n)
}

func (r *run) openDir(parent int, name []byte, ino flist.Inode) (node, error) {
	n := node{fd: -1, ino: ino}
	if err := checkName(name); err != nil {
		return n, err
	}
	mkdir := func() error { return unix.Mkdirat(parent, string(name), 0o700) }
	open := func() (err error) {
		n.fd, err = openat(parent, string(name), unix.O_DIRECTORY|unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		return err
	}
	err := mkdir()
	if err == nil {
		return n, open()
	}
	if !errors.Is(err, unix.EEXIST) || !r.opts.Overwrite {
		return n, err
	}
	n.reused = true
	err = open()
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		n.reused = false
		err = firstError(func() error { return unix.Unlinkat(parent, string(name), 0) }, mkdir, open)
	}
	if err == nil && n.reused {
		takeDefaultACL(n.fd)
	}
	return n, err
}

// leave gives a directory its attributes and goes back to the one above.
func (r *run) leave(stack []*level, l *level) error {
	defer l.close()
	if len(stack) == 0 {
		return nil // the root comes last of all, in finish
	}
	if err := stack[len(stack)-1].reopen(l.fd); err != nil {
		return fmt.Errorf("%s: %w", r.path(l.ino), err)
	}
	return r.restore(l.node)
}

// reopen opens l again, if it was closed, as the parent of child.
func (l *level) reopen(child int) error {
	if l.fd >= 0 {
		return nil
	}
	fd, err := openat(child, "..", unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("go back up: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != l.dev || st.Ino != l.number {
		closeFD(fd)
		return errors.Join(errors.New("somebody moved the directory meanwhile"), err)
	}
	l.fd = fd
	return nil
}

func (l *level) close() {
	if l.fd >= 0 {
		closeFD(l.fd)
		l.fd = -1
	}
}

func fileType(im *flist.Image, ino flist.Inode) uint32 { return im.Mode(ino) & unix.S_IFMT }

// path is the path of an inode for messages; pathIn that of a name.
func (r *run) path(ino flist.Inode) string { return shown(r.im.Path(ino)) }

func (r *run) pathIn(dir flist.Inode, name []byte) string {
	return shown(append(append(r.im.Path(dir), '/'), name...))
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
