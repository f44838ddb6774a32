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
	opts := Options{}.withDefaults(im)
	return newFileSystem(context.Background(), &Mount{
		im: im, src: src, opts: opts, log: opts.Log,
		touched: newTouches(im.NumChunks()), ahead: newAhead(im, opts.Ahead),
	})
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
	opts := Options{Ahead: ahead}.withDefaults(im)
	m := &Mount{im: im, src: src, opts: opts, log: opts.Log, touched: newTouches(im.NumChunks()), ahead: newAhead(im, ahead)}
	return newFileSystem(context.Background(), m), m.ahead.end
}
