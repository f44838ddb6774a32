// Package sampletree makes a directory that holds one of everything a file
// system can hold and an flist must keep: all file types, hard links, the
// twelve mode bits, owners, times far from now, extended attributes, holes,
// names that are not UTF-8, very long names and paths.
//
// Two calls with the same options and rights make equal trees (birth times
// apart). The package does not remove what it made; os.RemoveAll can. Make
// may be called concurrently for different directories.
package sampletree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Options says how large the sample is. The zero value makes about 6 MiB.
type Options struct {
	Seed      uint64 // of all random content
	LargeSize int64  // bytes of random content in large/random; 0 means 4 MiB
	Entries   int    // empty and tiny files in the directory many; 0 leaves it out
	Huge      bool   // add a sparse file of more than 4 GiB with a few bytes of data
}

// Make builds the sample in dir, which must be an empty directory or not
// exist. What the caller's rights or the file system do not allow is left out
// and named in skipped ("what: reason"); every other failure is an error.
func Make(dir string, opts Options) (skipped []string, err error) {
	if opts.LargeSize == 0 {
		opts.LargeSize = 4 << 20
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make sample tree: %w", err)
	}
	m := &maker{root: dir, opts: opts, isRoot: os.Geteuid() == 0}
	m.dirs = append(m.dirs, madeDir{path: dir, mode: 0o755})
	for _, part := range []func(){
		m.contents, m.directories, m.symlinks, m.specials, m.modes, m.owners,
		m.times, m.xattrs, m.sparse, m.names, m.deep, m.many, m.finishDirs,
	} {
		if part(); m.err != nil {
			return m.skipped, fmt.Errorf("make sample tree: %w", m.err)
		}
	}
	return m.skipped, nil
}

// maker keeps the first error; after it every step does nothing.
type maker struct {
	root    string
	opts    Options
	isRoot  bool
	made    int64 // entries so far; decides an entry's time
	dirs    []madeDir
	skipped []string
	err     error
}

// madeDir is a directory whose mode and time are set when all is in it.
type madeDir struct {
	path string
	mode uint32
}

func (m *maker) path(name string) string { return filepath.Join(m.root, name) }

// check records err, unless it is nil.
func (m *maker) check(err error) bool {
	if err != nil && m.err == nil {
		m.err = err
	}
	return m.err == nil
}

// may is check for what needs rights or support that may be missing here.
func (m *maker) may(what string, err error) bool {
	for _, missing := range []error{unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL} {
		if errors.Is(err, missing) {
			m.skipped = append(m.skipped, fmt.Sprintf("%s: %v", what, err))
			return false
		}
	}
	return m.check(err)
}

// needRoot reports whether the caller is root, and notes what is left out if not.
func (m *maker) needRoot(what string) bool {
	if !m.isRoot {
		m.skipped = append(m.skipped, what+": needs root")
	}
	return m.isRoot
}

func (m *maker) dir(name string, mode uint32) {
	if m.err == nil && m.check(os.Mkdir(m.path(name), 0o700)) {
		m.dirs = append(m.dirs, madeDir{m.path(name), mode})
	}
}

func (m *maker) file(name string, mode uint32, content []byte) {
	if m.err != nil || !m.check(os.WriteFile(m.path(name), content, 0o600)) {
		return
	}
	m.check(unix.Chmod(m.path(name), mode))
	m.stamp(name)
}

func (m *maker) symlink(target, name string) {
	if m.err == nil && m.check(os.Symlink(target, m.path(name))) {
		m.stamp(name)
	}
}

func (m *maker) link(old, name string) {
	if m.err == nil {
		m.check(unix.Linkat(unix.AT_FDCWD, m.path(old), unix.AT_FDCWD, m.path(name), 0))
	}
}

func (m *maker) mknod(what, name string, mode uint32, dev uint64) {
	if m.err == nil && m.may(what, unix.Mknod(m.path(name), mode, int(dev))) {
		m.check(unix.Chmod(m.path(name), mode&0o7777))
		m.stamp(name)
	}
}

func (m *maker) xattr(path, name string, value []byte) {
	if m.err == nil {
		m.may(name, unix.Lsetxattr(path, name, value, 0))
	}
}

// stamp gives an entry a time of its own, in nanoseconds.
func (m *maker) stamp(name string) {
	m.made++
	m.setTime(m.path(name), 1_700_000_000+m.made, (m.made*123_456_789)%1_000_000_000)
}

func (m *maker) setTime(path string, sec, nsec int64) {
	if m.err != nil {
		return
	}
	ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		m.check(&os.PathError{Op: "set times", Path: path, Err: err})
	}
}

// finishDirs sets modes and times of the directories, the last made first.
func (m *maker) finishDirs() {
	for i := len(m.dirs) - 1; i >= 0 && m.err == nil; i-- {
		d := m.dirs[i]
		if !m.check(unix.Chmod(d.path, d.mode)) {
			return
		}
		m.made++
		m.setTime(d.path, 1_600_000_000+m.made, (m.made*987_654_321)%1_000_000_000)
	}
}

// repeated returns s repeated to n bytes.
func repeated(s string, n int) string { return strings.Repeat(s, n/len(s)+1)[:n] }
