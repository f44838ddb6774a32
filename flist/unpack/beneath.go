package unpack

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxPath bounds the part of a path that one system call is given; the kernel
// takes 4096 bytes with the final NUL.
const maxPath = 4000

// openBeneath opens the directory path below the directory root for use as a
// base, whatever its length. No symlink is followed and no ".." taken, by
// openat2 or, where that is not to be had, by going one component at a time.
func openBeneath(root int, path []byte) (int, error) {
	path = bytes.Trim(path, "/")
	fd, err := openat(root, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	single := false
	for err == nil && len(path) > 0 {
		n := firstPart(path, single)
		var next int
		next, err = stepBeneath(fd, string(path[:n]), single)
		if !single && (errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM)) {
			single, err = true, nil
			continue
		}
		closeFD(fd)
		fd, path = next, bytes.TrimLeft(path[n:], "/")
	}
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// firstPart returns the length of the longest run of whole components at the
// beginning of path that is shorter than maxPath, or of the first one alone.
func firstPart(path []byte, single bool) int {
	if single || len(path) > maxPath {
		limit := path[:min(len(path), maxPath)]
		n := bytes.LastIndexByte(limit, '/')
		if single {
			n = bytes.IndexByte(path, '/')
		}
		if n > 0 {
			return n
		}
	}
	return len(path)
}

func stepBeneath(fd int, part string, single bool) (int, error) {
	if single {
		if err := checkName([]byte(part)); err != nil {
			return -1, err
		}
		return openat(fd, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	return retry(func() (int, error) { return unix.Openat2(fd, part, &how) })
}

// checkName refuses what is not one component. flist.Load has refused it
// before; here nothing depends on that.
func checkName(name []byte) error {
	switch {
	case len(name) == 0, bytes.IndexByte(name, '/') >= 0, bytes.IndexByte(name, 0) >= 0,
		string(name) == ".", string(name) == "..":
		return fmt.Errorf("name %q leads out of its directory: %w", name, unix.EINVAL)
	}
	return nil
}

func openat(dir int, name string, flags int, perm uint32) (int, error) {
	return retry(func() (int, error) { return unix.Openat(dir, name, flags|unix.O_CLOEXEC, perm) })
}

// closeFD closes a descriptor through which nothing was written.
func closeFD(fd int) { _ = unix.Close(fd) }

// fdPath is a path to what is open at fd, even if only as O_PATH.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// retry calls f again as long as a signal interrupts it.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
	}
}
