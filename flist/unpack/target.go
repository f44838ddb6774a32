package unpack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flistnode/flistnode/flist"
	"golang.org/x/sys/unix"
)

// Marker begins the name of the file that stands in the target while it is
// not complete.
const Marker = ".flistnode-unpacking"

// ErrNotEmpty says that the target holds something and Overwrite is not set.
var ErrNotEmpty = errors.New("directory is not empty")

// target is the directory an image is unpacked into.
type target struct {
	dir       string
	fd        int
	marker    string // name of the marker file
	existed   bool   // the directory was there before
	overwrite bool

	before     unix.Stat_t // of a directory that existed
	defaultACL []byte      // what it passed on to new entries; taken away meanwhile
	changed    bool        // its owner and mode are not what they were before
}

func openTarget(dir string, im *flist.Image, overwrite bool) (*target, error) {
	t := &target{dir: dir, fd: -1, overwrite: overwrite, marker: Marker}
	for {
		if _, taken := im.Lookup(flist.RootInode, []byte(t.marker)); !taken {
			break
		}
		t.marker += "~"
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, os.ErrExist) {
		t.existed = true
	} else if err != nil {
		return nil, err
	}
	if err := t.prepare(); err != nil {
		if t.fd >= 0 {
			err = errors.Join(err, t.putBack())
			t.close()
		}
		return nil, err
	}
	return t, nil
}

// prepare opens the directory, makes sure that it may be filled, closes it to
// others and sets the marker.
func (t *target) prepare() (err error) {
	t.fd, err = openat(unix.AT_FDCWD, t.dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	names, err := t.names()
	if err != nil {
		return err
	}
	if err := unix.Fstat(t.fd, &t.before); err != nil {
		return err
	}
	if !t.overwrite && len(names) > 0 {
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, Marker) }) {
			return fmt.Errorf("%w: another unpack works in it or was killed there; remove it or overwrite it", ErrNotEmpty)
		}
		return ErrNotEmpty
	}
	if !t.overwrite && t.existed {
		// Nobody else may change entries between making and restoring them.
		err := unix.Fchmod(t.fd, 0o700)
		if err != nil && !errors.Is(err, unix.EPERM) {
			return err
		}
		t.changed = err == nil
		if os.Geteuid() == 0 {
			if err := unix.Fchown(t.fd, 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
				return err
			}
		}
	}
	t.defaultACL = takeDefaultACL(t.fd)
	if t.overwrite {
		if err := unix.Unlinkat(t.fd, t.marker, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove old marker %s: %w", t.marker, err)
		}
	}
	return t.setMarker()
}

func (t *target) setMarker() error {
	fd, err := openat(t.fd, t.marker, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("make marker %s: %w", t.marker, err)
	}
	return unix.Close(fd)
}

func (t *target) removeMarker() error {
	if err := unix.Unlinkat(t.fd, t.marker, 0); err != nil {
		return fmt.Errorf("remove marker %s: %w", t.marker, err)
	}
	return nil
}

func (t *target) names() ([]string, error) {
	fd, err := openat(t.fd, ".", unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), t.dir)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

func (t *target) close() { closeFD(t.fd) }

// undo removes what was made. It returns what is left behind, in words, or "".
// closed are directories that their owner could not empty.
func (t *target) undo(closed []closedDir, path func(flist.Inode) []byte) (left string) {
	if t.overwrite {
		if err := t.setMarker(); err != nil && !errors.Is(err, unix.EEXIST) {
			return "what was unpacked so far stays there"
		}
		return fmt.Sprintf("what was unpacked so far stays there, with the marker %s", t.marker)
	}
	// Where this fails, empty does, and says so.
	_ = unix.Fchmod(t.fd, 0o700)
	for _, d := range slices.Backward(closed) {
		if fd, err := openBeneath(t.fd, path(d.ino)); err == nil {
			_ = unix.Chmod(fdPath(fd), 0o700)
			closeFD(fd)
		}
	}
	if err := t.empty(); err != nil {
		return fmt.Sprintf("what was unpacked so far could not be removed: %v", err)
	}
	if !t.existed {
		if err := os.Remove(t.dir); err != nil {
			return fmt.Sprintf("the empty directory could not be removed: %v", err)
		}
		return ""
	}
	if err := t.putBack(); err != nil {
		return fmt.Sprintf("the attributes of the empty directory could not be put back: %v", err)
	}
	return ""
}

// empty removes all that is in the directory.
func (t *target) empty() error {
	names, err := t.names()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(fdPath(t.fd))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	// The marker goes last.
	slices.SortFunc(names, func(a, b string) int {
		switch t.marker {
		case a:
			return 1
		case b:
			return -1
		}
		return strings.Compare(a, b)
	})
	for _, n := range names {
		if err := root.RemoveAll(n); err != nil {
			return err
		}
	}
	return nil
}

// putBack gives the directory the attributes it had, or removes it if it is
// new.
func (t *target) putBack() error {
	if !t.existed {
		return os.Remove(t.dir)
	}
	var errs []error
	if t.defaultACL != nil {
		errs = append(errs, unix.Fsetxattr(t.fd, defaultACLName, t.defaultACL, 0))
	}
	if t.changed {
		if os.Geteuid() == 0 {
			errs = append(errs, unix.Fchown(t.fd, int(t.before.Uid), int(t.before.Gid)))
		}
		ts := []unix.Timespec{t.before.Atim, t.before.Mtim}
		errs = append(errs, unix.Fchmod(t.fd, t.before.Mode&0o7777), unix.UtimesNanoAt(t.fd, "", ts, unix.AT_EMPTY_PATH))
	}
	return errors.Join(errs...)
}

const defaultACLName = "system.posix_acl_default"

// takeDefaultACL removes the ACL a directory passes on to what is made in it,
// which would add to the modes of an image, and returns it.
func takeDefaultACL(fd int) []byte {
	buf := make([]byte, 64<<10)
	n, err := unix.Fgetxattr(fd, defaultACLName, buf)
	if err != nil || unix.Fremovexattr(fd, defaultACLName) != nil {
		return nil
	}
	return slices.Clone(buf[:n])
}

// shown is a path of an image as messages show it.
func shown(path []byte) string { return filepath.Clean(string(path)) }
