package chunkstore

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxIOVectors is how many pieces one system call takes.
const maxIOVectors = 1024

// writeAll writes iov at off, where the system may write less at once.
func writeAll(f *os.File, iov [][]byte, off int64) error {
	for len(iov) > 0 {
		n, err := unix.Pwritev(int(f.Fd()), iov, off)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return &fs.PathError{Op: "write", Path: f.Name(), Err: err}
		}
		off += int64(max(n, 0))
		iov = skip(iov, max(n, 0))
	}
	return nil
}

// readAll is io.ReadFull for iov at off.
func readAll(f *os.File, iov [][]byte, off int64) error {
	for len(iov) > 0 {
		n, err := unix.Preadv(int(f.Fd()), iov, off)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return &fs.PathError{Op: "read", Path: f.Name(), Err: err}
		case n == 0 && len(iov[0]) > 0:
			return &fs.PathError{Op: "read", Path: f.Name(), Err: io.ErrUnexpectedEOF}
		}
		off += int64(max(n, 0))
		iov = skip(iov, max(n, 0))
	}
	return nil
}

// skip returns what is left of iov without its first n bytes.
func skip(iov [][]byte, n int) [][]byte {
	for len(iov) > 0 && n >= len(iov[0]) {
		n -= len(iov[0])
		iov = iov[1:]
	}
	if n > 0 {
		iov[0] = iov[0][n:]
	}
	return iov
}
