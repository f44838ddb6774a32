package mount

import (
	"context"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// NewFileSystem returns what answers the kernel, without a kernel.
func NewFileSystem(im *flist.Image, src chunk.Source) fuse.RawFileSystem {
	return newFileSystem(context.Background(), newMount(im, src, Options{}.withDefaults(im), ""))
}

// Stalled reports whether a file system remembers that a chunk did not come,
// and lets others wait less for it.
func Stalled(fs fuse.RawFileSystem, c uint32) bool { return fs.(*fileSystem).stalls.recent(c) }

// NewFileSystemTimeout is NewFileSystem with a ReadTimeout.
func NewFileSystemTimeout(im *flist.Image, src chunk.Source, d time.Duration) fuse.RawFileSystem {
	fs := NewFileSystem(im, src)
	fs.(*fileSystem).opts.ReadTimeout = d
	return fs
}

// NewFileSystemAhead is NewFileSystem with a source to read ahead from. end
// ends the readahead.
func NewFileSystemAhead(im *flist.Image, src, ahead chunk.Source) (fs fuse.RawFileSystem, end func()) {
	m := newMount(im, src, Options{Ahead: ahead}.withDefaults(im), "")
	return newFileSystem(context.Background(), m), m.ahead.end
}

// NewFileSystemNear is NewFileSystem with a source of what is near the reads.
// end ends asking it.
func NewFileSystemNear(im *flist.Image, src, local chunk.Source) (fs fuse.RawFileSystem, end func()) {
	m := newMount(im, src, Options{Local: local}.withDefaults(im), "")
	return newFileSystem(context.Background(), m), m.near.end
}
