package pack

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// opener opens for reading, leaving access times alone where it may.
type opener struct {
	refused atomic.Bool // only owners may ask for that
}

// open is openat(2) for reading.
func (o *opener) open(dirfd int, name string, flags int) (int, error) {
	if !o.refused.Load() {
		fd, err := openRetry(dirfd, name, flags|unix.O_RDONLY|unix.O_NOATIME)
		if !errors.Is(err, unix.EPERM) {
			return fd, err
		}
		o.refused.Store(true)
	}
	return openRetry(dirfd, name, flags|unix.O_RDONLY)
}

// openRetry is openat(2) with O_CLOEXEC that is not interrupted by signals.
func openRetry(dirfd int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// exhausted reports whether err says that the machine is short of something,
// not that an entry cannot be read.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}
