package mount

import (
	"context"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist/chunk"
)

// What requests about metadata fail with. They need no error value: the
// tables were checked when the image was loaded, so nothing else can happen.
const (
	statusNoInode  = fuse.Status(unix.ESTALE)  // the kernel names an inode the image does not have
	statusNoDir    = fuse.Status(unix.ENOTDIR) // a name was looked up in something else
	statusLongName = fuse.Status(unix.ENAMETOOLONG)
	statusNoXattr  = fuse.Status(unix.ENODATA) // the inode has no such xattr
	statusNoSpace  = fuse.Status(unix.ENOTSUP) // nor has any: Linux knows no xattrs that begin so
	statusNoRoom   = fuse.Status(unix.ERANGE)  // the buffer is too small; its size is told
	statusReadOnly = fuse.Status(unix.EROFS)   // whatever would change the image
	statusNoData   = fuse.Status(unix.ENXIO)   // lseek behind the last data or the end
	statusNoIoctl  = fuse.Status(unix.ENOTTY)  // any ioctl
)

// errInterrupted says that the reader was interrupted by a signal.
var errInterrupted = errors.New("the reading process was interrupted")

// errnos is the table from the errors of content to errno, first match first.
// All that is not in it is EIO, too.
var errnos = []struct {
	is    error
	errno fuse.Status
}{
	{errInterrupted, fuse.Status(unix.EINTR)},      // a signal; the fetch goes on for others
	{context.DeadlineExceeded, fuse.EIO},           // nobody sent the chunk within ReadTimeout
	{context.Canceled, fuse.Status(unix.ENOTCONN)}, // the mount is shutting down
	{chunk.ErrNotFound, fuse.EIO},                  // nobody has the chunk
}

// statusOf translates an error of the read path.
func statusOf(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, e := range errnos {
		if errors.Is(err, e.is) {
			return e.errno
		}
	}
	return fuse.EIO // among them *chunk.CorruptError
}
