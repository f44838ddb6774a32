package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
)

// A writable mount is an overlay: below it the image, mounted in a private
// directory, above it a directory that takes the changes. Whoever unmounts the
// overlay takes the image down with it.
//
// The image must not steer the overlay. Xattrs in it that overlayfs would obey
// (trusted.overlay.*, user.overlay.*) are handed over escaped, so that they
// are shown as what they are and have no effect (kernel 6.7; before, they
// are hidden). A whiteout in the image (character device 0, 0) hides itself:
// there is no way to escape one, and Run says in the log how many there are.

// layers are the directories of a writable mount.
type layers struct {
	private            string // holds all that is thrown away at the end
	lower, upper, work string
	userXattr          bool // not the initial user namespace: no trusted.* there
}

// Names in the private directory.
const (
	lowerName = "lower"
	upperName = "upper"
	workName  = "work"
)

// workSuffix makes the name of the work directory beside a kept upper one;
// overlayfs wants both on one file system.
const workSuffix = ".work"

// newLayers makes the directories. An upper directory that is new gets the
// owner, mode and time of the image's root, since it is what the root shows.
func newLayers(im *flist.Image, private, upper string) (*layers, error) {
	if err := os.MkdirAll(private, 0o700); err != nil {
		return nil, fmt.Errorf("directory for writable mounts: %w", err)
	}
	dir, err := os.MkdirTemp(private, "")
	if err != nil {
		return nil, fmt.Errorf("directory for writable mounts: %w", err)
	}
	l := &layers{private: dir, lower: filepath.Join(dir, lowerName), userXattr: !initialUserNamespace()}
	l.upper, l.work = filepath.Join(dir, upperName), filepath.Join(dir, workName)
	if upper != "" {
		l.upper, l.work = upper, strings.TrimSuffix(upper, "/")+workSuffix
	}
	if err := l.make(im); err != nil {
		l.remove()
		return nil, err
	}
	return l, nil
}

func (l *layers) make(im *flist.Image) error {
	if err := os.Mkdir(l.lower, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(l.work, 0o700); err != nil {
		return fmt.Errorf("work directory beside the upper one: %w", err)
	}
	err := os.Mkdir(l.upper, 0o700)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("upper directory: %w", err)
	}
	a := im.Attr(flist.RootInode)
	t := time.Unix(a.Mtime.Sec, int64(a.Mtime.Nsec))
	err = errors.Join(os.Lchown(l.upper, int(a.UID), int(a.GID)), unix.Chmod(l.upper, a.Mode&0o7777), os.Chtimes(l.upper, t, t))
	if err != nil {
		return fmt.Errorf("give upper directory the attributes of the image's root: %w", err)
	}
	return nil
}

// remove removes what is thrown away. The image must be unmounted.
func (l *layers) remove() {
	if err := os.Remove(l.lower); err == nil || errors.Is(err, os.ErrNotExist) {
		os.RemoveAll(l.private)
	}
}

// CleanPrivate removes what mounts of processes that died have left in the
// directory Options.Private. Nobody but those of inUse may be using it.
func CleanPrivate(private string, inUse ...*Mount) error {
	entries, err := os.ReadDir(private)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up after writable mounts: %w", err)
	}
	used := make(map[string]bool)
	for _, m := range inUse {
		if m.layers != nil {
			used[m.layers.private] = true
		}
	}
	for _, e := range entries {
		dir := filepath.Join(private, e.Name())
		if !e.IsDir() || used[dir] {
			continue
		}
		l := layers{private: dir, lower: filepath.Join(dir, lowerName)}
		_ = unmount(l.lower, unix.MNT_DETACH) // most are not mounted
		l.remove()
	}
	return nil
}

// overlayOptions are those of mount(2). What a mount may do beyond layering is
// off: it would let the image redirect look-ups.
func (l *layers) overlayOptions() string {
	o := "lowerdir=" + escapePath(l.lower) + ",upperdir=" + escapePath(l.upper) + ",workdir=" + escapePath(l.work) +
		",metacopy=off,index=off"
	if l.userXattr {
		return o + ",userxattr" // redirects are always off with it
	}
	return o + ",redirect_dir=nofollow"
}

// escapePath protects what overlayfs takes for the end of a path.
func escapePath(path string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`).Replace(path)
}

// mountOverlay puts the overlay on m.dir.
func (m *Mount) mountOverlay() error {
	var flags uintptr
	if !m.opts.SetUID {
		flags |= unix.MS_NOSUID
	}
	if !m.opts.Devices {
		flags |= unix.MS_NODEV
	}
	err := unix.Mount(m.opts.FSName, m.dir, "overlay", flags, m.layers.overlayOptions())
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("a writable mount needs root, or a user namespace with overlayfs (unshare -rm): overlay: %w", err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("a writable mount needs overlayfs in the kernel (modprobe overlay): %w", err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EXDEV):
		return fmt.Errorf("overlay with upper directory %s: its file system must take xattrs, not be an overlay itself, and hold %s too: %w",
			m.layers.upper, m.layers.work, err)
	case err != nil:
		return fmt.Errorf("overlay with upper directory %s: %w", m.layers.upper, err)
	}
	top, err := topMount(m.dir)
	m.overlayDev = top.dev
	if n := whiteouts(m.im); n > 0 {
		m.log.Warn("whiteouts in the image hide themselves in a writable mount", "whiteouts", n)
	}
	return err
}

// whiteouts counts the character devices 0, 0 of an image.
func whiteouts(im *flist.Image) int {
	n := 0
	for i := range im.NumInodes() {
		if im.Mode(flist.Inode(i))&flist.ModeType == flist.ModeChar && im.Attr(flist.Inode(i)).Rdev == 0 {
			n++
		}
	}
	return n
}

// overlayPoll is how often it is looked whether somebody else has unmounted
// the overlay. The kernel tells sooner, where it can.
const overlayPoll = time.Second

// watchOverlay unmounts the image when the overlay above it is gone. It
// returns then, or when ctx ends.
func (m *Mount) watchOverlay(ctx context.Context) {
	tick := time.NewTicker(overlayPoll)
	defer tick.Stop()
	for {
		if there, err := m.overlayThere(); err == nil && !there {
			// Whoever still uses the overlay keeps the image.
			if err := unmount(m.layers.lower, unix.MNT_DETACH); err != nil && !errors.Is(err, ErrNotMounted) {
				m.log.Warn("image below a writable mount cannot be unmounted", "err", err)
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m *Mount) overlayThere() (bool, error) {
	on, err := mountsAt(m.dir)
	for _, p := range on {
		if p.ours() && p.dev == m.overlayDev {
			return true, nil
		}
	}
	return false, err
}

// checkUpper refuses an upper directory that another overlay uses or that the
// mount would hide.
func checkUpper(dir, upper string) error {
	if upper == "" {
		return nil
	}
	if !filepath.IsAbs(upper) {
		return fmt.Errorf("upper directory %s is not an absolute path: %w", upper, unix.EINVAL)
	}
	upper, err := resolve(upper)
	if err != nil {
		return fmt.Errorf("upper directory: %w", err)
	}
	if within(upper, dir) || within(dir, upper) {
		return fmt.Errorf("upper directory %s and mount point %s lie one in the other: choose another: %w", upper, dir, unix.EINVAL)
	}
	if info, err := os.Stat(upper); err == nil && !info.IsDir() {
		return fmt.Errorf("upper directory %s is not a directory: %w", upper, unix.ENOTDIR)
	}
	all, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.fsType == "overlay" && m.option("upperdir") == upper {
			return fmt.Errorf("upper directory %s is in use by the mount at %s: %w", upper, m.dir, unix.EBUSY)
		}
	}
	return nil
}

// initialUserNamespace reports whether this process is in it.
func initialUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(b))
	return err != nil || len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == "4294967295"
}

// The names of xattrs that overlayfs obeys, and of those it shows as the
// former.
var obeyed = []string{"trusted.overlay.", "user.overlay."}

const escaped = "overlay."

// fromOverlay translates the name of an xattr overlayfs asks for; false if the
// image has none such.
func fromOverlay(name string) (string, bool) {
	for _, prefix := range obeyed {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			rest, ok = strings.CutPrefix(rest, escaped)
			return prefix + rest, ok
		}
	}
	return name, true
}

// toOverlay is the opposite: what to put in front of the part of an image's
// name behind the first at bytes.
func toOverlay(name []byte) (at int, insert string) {
	for _, prefix := range obeyed {
		if strings.HasPrefix(string(name), prefix) {
			return len(prefix), escaped
		}
	}
	return 0, ""
}
