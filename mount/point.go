package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotMounted says that no flist is mounted where one was to be unmounted.
var ErrNotMounted = errors.New("no flist is mounted there")

// Check reports why an flist cannot be mounted on dir: nil, or an error that
// says what is wrong and what to do. A mount of flistnode on dir whose process
// is gone is cleared away on the way.
func Check(dir string, opts Options) error {
	if err := checkDevice(); err != nil {
		return err
	}
	if dir == "" {
		return errors.New("mount: no mount point given")
	}
	abs, err := resolve(dir)
	if err != nil {
		return fmt.Errorf("mount point %s: %w", dir, err)
	}
	if err := checkMounts(abs); err != nil {
		return err
	}
	info, err := os.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("mount point %s does not exist: create it first: %w", dir, err)
	case errors.Is(err, unix.ENOTCONN):
		return fmt.Errorf("mount point %s is a stale mount of another file system: unmount it first (umount %s): %w", dir, dir, err)
	case err != nil:
		return fmt.Errorf("mount point %s: %w", dir, err)
	case !info.IsDir():
		return fmt.Errorf("mount point %s is not a directory: %w", dir, unix.ENOTDIR)
	}
	if err := checkData(dir, abs, opts.DataDir); err != nil {
		return err
	}
	if err := checkUpper(abs, opts.Upper); err != nil || opts.NonEmpty {
		return err
	}
	empty, err := isEmpty(abs)
	if err != nil {
		return fmt.Errorf("mount point %s: %w", dir, err)
	}
	if !empty {
		return fmt.Errorf("mount point %s is not empty: choose another or say --nonempty: %w", dir, unix.ENOTEMPTY)
	}
	return nil
}

// checkDevice reports whether this process can reach FUSE.
func checkDevice() error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("mount: no FUSE here: load the kernel module (modprobe fuse) or give the container /dev/fuse: %w", err)
	}
	return fmt.Errorf("mount: this user may not use FUSE: run as root or give access to /dev/fuse: %w", err)
}

// checkMounts looks at what is mounted on dir already.
func checkMounts(dir string) error {
	on, err := mountsAt(dir)
	if err != nil {
		return err
	}
	for i := len(on) - 1; i >= 0 && on[i].ours(); i-- {
		// Attributes are cached, so only a request tells whether it is alive.
		var st unix.Statfs_t
		at := dir
		if lower := on[i].lower(); lower != "" {
			at = lower
		}
		if err := unix.Statfs(at, &st); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
			return fmt.Errorf("mount point %s: %s is already mounted there: unmount it or choose another: %w", dir, on[i].source, unix.EBUSY)
		}
		if err := unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("mount point %s is a stale mount of %s that cannot be cleared away: %w", dir, on[i].source, err)
		}
		if at != dir {
			_ = unmount(at, unix.MNT_DETACH) // nobody sees it any more
		}
	}
	return nil
}

// checkData refuses a mount point in the data directory, and one that would
// hide it.
func checkData(dir, abs, data string) error {
	if data == "" {
		return nil
	}
	data, err := resolve(data)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if within(abs, data) {
		return fmt.Errorf("mount point %s lies inside the data directory %s: choose another: %w", dir, data, unix.EINVAL)
	}
	if within(data, abs) {
		return fmt.Errorf("mount point %s would hide the data directory %s: choose another: %w", dir, data, unix.EINVAL)
	}
	return nil
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); !errors.Is(err, io.EOF) {
		return false, err
	}
	return true, nil
}

// resolve makes path absolute and free of symlinks. The last element need not
// exist and may be a stale mount.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err == nil {
		return real, nil
	}
	parent, perr := filepath.EvalSymlinks(filepath.Dir(abs))
	if perr != nil {
		return "", perr
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

// mountPoint is one line of mountinfo.
type mountPoint struct {
	dir, fsType, source string
	options             string // of the file system
	dev                 uint64
}

// option returns the value of an option that is a path.
func (m mountPoint) option(name string) string {
	for _, o := range splitOptions(m.options) {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			return v
		}
	}
	return ""
}

// splitOptions undoes escapePath as it splits at commas.
func splitOptions(s string) []string {
	list := []string{""}
	for i := 0; i < len(s); i++ {
		switch last := &list[len(list)-1]; {
		case s[i] == '\\' && i+1 < len(s):
			i++
			*last += s[i : i+1]
		case s[i] == ',':
			list = append(list, "")
		default:
			*last += s[i : i+1]
		}
	}
	return list
}

// lower returns where the image below a writable mount is mounted.
func (m mountPoint) lower() string {
	if m.fsType != "overlay" {
		return ""
	}
	return m.option("lowerdir")
}

// ours reports whether m is a mount of this program.
func (m mountPoint) ours() bool {
	return (m.fsType == "fuse."+fsType || m.fsType == "overlay") && strings.HasPrefix(m.source, fsPrefix)
}

// mountsAt returns what is mounted on dir, the topmost last.
func mountsAt(dir string) ([]mountPoint, error) {
	all, err := mounts()
	var on []mountPoint
	for _, m := range all {
		if m.dir == dir {
			on = append(on, m)
		}
	}
	return on, err
}

// topMount returns what one sees on dir; the zero mountPoint if nothing is
// mounted there.
func topMount(dir string) (mountPoint, error) {
	on, err := mountsAt(dir)
	if err != nil || len(on) == 0 {
		return mountPoint{}, err
	}
	return on[len(on)-1], nil
}

// mountsBelow returns the mount points inside dir.
func mountsBelow(dir string) []string {
	all, _ := mounts() // only to explain an error
	var below []string
	for _, m := range all {
		if m.dir != dir && within(m.dir, dir) {
			below = append(below, m.dir)
		}
	}
	return below
}

// mounts reads /proc/self/mountinfo, described in proc_pid_mountinfo(5).
func mounts() ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []mountPoint
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 2 {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(l[2], "%d:%d", &major, &minor); err != nil {
			continue
		}
		m := mountPoint{dir: unescape(l[4]), fsType: r[0], source: unescape(r[1]), dev: unix.Mkdev(major, minor)}
		if len(r) > 2 {
			m.options = unescape(r[2])
		}
		all = append(all, m)
	}
	return all, lines.Err()
}

// unescape undoes the octal escapes of mountinfo ("\040" is a space).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmount is umount2(2), by way of fusermount3 for those who may not. Errors:
// unix.EBUSY, ErrNotMounted, others.
func unmount(dir string, flags int) error {
	err := unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EPERM) {
		args := []string{"-u", "-q", "--", dir}
		if flags&unix.MNT_DETACH != 0 {
			args = append([]string{"-z"}, args...)
		}
		ctx, stop := context.WithTimeout(context.Background(), goodbye)
		defer stop()
		out, ferr := exec.CommandContext(ctx, "fusermount3", args...).CombinedOutput()
		switch {
		case ferr == nil:
			return nil
		case strings.Contains(string(out), "busy"):
			return unix.EBUSY
		}
		return fmt.Errorf("%w; fusermount3: %w %s", err, ferr, strings.TrimSpace(string(out)))
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: %w", ErrNotMounted, err)
	}
	return err
}
