package mount

import (
	"context"

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
