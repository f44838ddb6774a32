package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// contentJob is a pair of open files of the same size.
type contentJob struct {
	path string
	a, b *os.File
	size int64
}

// queueContent opens the files and leaves their content to the workers.
func (c *comparer) queueContent(ctx context.Context, path string, a, b *entry) error {
	j := contentJob{path: path, size: int64(a.st.Size)}
	for i, e := range []*entry{a, b} {
		// O_NONBLOCK so that nothing waits, whatever may stand here by now.
		fd, err := openat(e.fd, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
		if err != nil {
			j.close()
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
				return err
			}
			c.readError(path, i == 0, err)
			return nil
		}
		f := os.NewFile(uintptr(fd), e.name)
		if i == 0 {
			j.a = f
		} else {
			j.b = f
		}
	}
	select {
	case c.jobs <- j:
		return nil
	case <-ctx.Done():
		j.close()
		return ctx.Err()
	}
}

func (j *contentJob) close() {
	for _, f := range []*os.File{j.a, j.b} {
		if f != nil {
			f.Close()
		}
	}
}

// contentBuf is the bytes of each file that a worker reads at once.
const contentBuf = 256 << 10

// compareContents works until the jobs end; after ctx is done it only closes.
func (c *comparer) compareContents(ctx context.Context) {
	bufs := [2][]byte{make([]byte, contentBuf), make([]byte, contentBuf)}
	for j := range c.jobs {
		if ctx.Err() == nil {
			c.compareContent(ctx, j, bufs)
		}
		j.close()
	}
}

func (c *comparer) compareContent(ctx context.Context, j contentJob, bufs [2][]byte) {
	c.files.Add(1)
	c.bytes.Add(j.size)
	if c.opts.Holes {
		c.compareHoles(j)
	}
	for off := int64(0); off < j.size && ctx.Err() == nil; {
		if c.opts.SkipHoles {
			if off = min(nextData(j.a, off, j.size), nextData(j.b, off, j.size)); off == j.size {
				return
			}
		}
		n := min(contentBuf, j.size-off)
		for i, f := range []*os.File{j.a, j.b} {
			if _, err := f.ReadAt(bufs[i][:n], off); err != nil {
				if errors.Is(err, io.EOF) {
					err = fmt.Errorf("ends before its %d bytes", j.size)
				}
				c.readError(j.path, i == 0, err)
				return
			}
		}
		x, y := bufs[0][:n], bufs[1][:n]
		if !bytes.Equal(x, y) {
			at := firstDifference(x, y)
			c.differ(j.path, "content", fmt.Sprintf("%#02x at offset %d", x[at], off+int64(at)), fmt.Sprintf("%#02x", y[at]))
			return
		}
		off += n
	}
}

func firstDifference(x, y []byte) int {
	for i := range x {
		if x[i] != y[i] {
			return i
		}
	}
	return len(x)
}

// nextData returns where the first data at or after off begins, or size. A
// file system that knows no holes has data everywhere.
func nextData(f *os.File, off, size int64) int64 {
	at, err := f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size
	case err != nil:
		return off
	}
	return min(at, size)
}

// nextHole returns where the first hole at or after off begins, or size.
func nextHole(f *os.File, off, size int64) int64 {
	at, err := f.Seek(off, unix.SEEK_HOLE)
	if err != nil {
		return size
	}
	return min(at, size)
}

func (c *comparer) compareHoles(j contentJob) {
	for off := int64(0); off < j.size; {
		da, db := nextData(j.a, off, j.size), nextData(j.b, off, j.size)
		if da != db {
			c.differ(j.path, "holes", fmt.Sprintf("data from %d on", da), fmt.Sprintf("data from %d on", db))
			return
		}
		if da == j.size {
			return
		}
		ha, hb := nextHole(j.a, da, j.size), nextHole(j.b, da, j.size)
		if ha != hb {
			c.differ(j.path, "holes", fmt.Sprintf("data up to %d", ha), fmt.Sprintf("data up to %d", hb))
			return
		}
		off = ha
	}
}

// openat opens name in the directory dir, never across exec.
func openat(dir int, name string, flags int) (int, error) {
	return retry(func() (int, error) { return unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0) })
}

// closeFD closes a descriptor through which nothing was written.
func closeFD(fd int) { _ = unix.Close(fd) }

// retry calls f again as long as a signal interrupts it; the Go runtime
// itself sends some, and a FUSE file system lets them through.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
