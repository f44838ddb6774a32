// Package unpack makes a directory out of an flist and its chunks.
//
// It restores everything an flist holds: all file types, hard links, owners,
// the 12 mode bits, xattrs, mtimes in nanoseconds, holes. It does not restore
// birth times, because no system call sets one, and it does not fetch: chunks
// come from the Source it is given.
//
// Whatever the flist says, nothing outside the target is touched: the tree is
// walked through open directories, each name is one component that is never
// followed as a symlink, and each entry is opened once and then changed
// through its descriptor.
//
// Dir may be called concurrently for different directories.
package unpack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options says how to unpack. The zero value is ready for use.
type Options struct {
	Workers int // chunks fetched and written at once; 0 means 4 for each processor, at least 16

	// Overwrite lets the target be a directory that holds something. What the
	// image names replaces what stands there, directories are merged, all
	// else stays. A directory in the place of something else is an error.
	Overwrite bool

	// AllowLoss makes of what cannot be restored an item in
	// Result.NotRestored even for root; otherwise it is an error for root.
	AllowLoss bool

	Sync     bool           // write everything to disk before the result counts as complete
	Progress func(Progress) // called some times a second, never concurrently, and at the end
	Log      *slog.Logger   // nil discards
}

// Progress is how far Dir has come.
type Progress struct {
	Entries, TotalEntries int64 // names
	Bytes, TotalBytes     int64 // of files, as stat tells: holes count as they are passed over
}

// Result is what Dir has done.
type Result struct {
	Entries     int64 // names made, the root and all names of hard links included
	Files       int64 // regular files, each counted once
	Bytes       int64 // content written; holes are never written
	NotRestored []Problem
}

// Problem is one kind of thing that could not be restored.
type Problem struct {
	What  string   // "owner", "group", "setuid bit", "device", "xattr trusted.", "mtime" ...
	Count int64    // entries concerned
	Err   error    // why, for the first of them
	Paths []string // the first few, relative to the target
}

func (p Problem) String() string {
	return fmt.Sprintf("%s of %d entries (first %q): %v", p.What, p.Count, p.Paths[0], p.Err)
}

// Dir unpacks im into dir, which must be missing (its parent must exist) or
// empty unless opts.Overwrite is set.
//
// While Dir works, dir holds a file whose name begins with Marker; as long as
// it is there the directory is not complete. After an error everything Dir
// made is removed again and dir is as it was before; only with Overwrite what
// was unpacked so far stays, with the marker. A process that is killed leaves
// what it made, with the marker.
//
// Without root, owners, devices and some xattrs cannot be restored: they are
// collected in Result.NotRestored. A setuid or setgid bit whose owner or group
// could not be restored is dropped, and that is said too. A file system that
// keeps coarser or fewer times than the image has is reported the same way.
func Dir(ctx context.Context, im *flist.Image, src chunk.Source, dir string, opts Options) (Result, error) {
	if opts.Workers <= 0 {
		opts.Workers = max(16, 4*runtime.GOMAXPROCS(0))
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	t, err := openTarget(dir, im, opts.Overwrite)
	if err != nil {
		return Result{}, fmt.Errorf("unpack into %s: %w", dir, err)
	}
	defer t.close()
	r := newRun(im, src, t, opts)
	start := time.Now()
	if err := r.unpack(ctx); err != nil {
		err = explain(err)
		if left := t.undo(r.closed, im.Path); left != "" {
			err = fmt.Errorf("%w; %s", err, left)
		}
		return Result{}, fmt.Errorf("unpack into %s: %w", dir, err)
	}
	res := r.result()
	opts.Log.Info("unpacked", "flist", im.CID(), "dir", dir, "entries", res.Entries, "bytes", res.Bytes, "took", time.Since(start))
	return res, nil
}

// explain adds what to do to errors whose text alone would puzzle.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("the disk is full: %w", err)
	case errors.Is(err, unix.EFBIG):
		return fmt.Errorf("the file system takes no file that large: %w", err)
	case errors.Is(err, unix.EMLINK):
		return fmt.Errorf("the file system takes no more names for one file: %w", err)
	}
	return err
}

// run is one call of Dir. The walker goroutine makes every entry; workers
// write content. Both share the counts, losses and open.
type run struct {
	im     *flist.Image
	src    chunk.Source
	target *target
	opts   Options
	strict bool // a loss is an error

	packs *packCache
	tasks chan *task
	open  chan struct{} // one token for each file open for content

	firstNames map[flist.Inode]firstName // of inodes with several names
	batch      *task                     // small writes that are not yet handed over
	closed     []closedDir               // deepest first

	losses                       losses
	entries, files, bytes, holes atomic.Int64
}

// maxOpen bounds the files that are open for content at once.
const maxOpen = 512

func newRun(im *flist.Image, src chunk.Source, t *target, opts Options) *run {
	return &run{
		im: im, src: src, target: t, opts: opts,
		strict:     os.Geteuid() == 0 && !opts.AllowLoss,
		packs:      newPackCache(),
		tasks:      make(chan *task, opts.Workers),
		open:       make(chan struct{}, maxOpen),
		firstNames: map[flist.Inode]firstName{},
	}
}

func (r *run) unpack(ctx context.Context) error {
	stop := r.reportProgress()
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	for range r.opts.Workers {
		g.Go(func() error { return flist.Guard(func() error { return r.work(gctx) }) })
	}
	g.Go(func() error {
		defer close(r.tasks)
		return flist.Guard(func() error { return r.walk(gctx) })
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.finish()
}

// finish does what must come last: modes of directories nobody could have
// worked in, and the root.
func (r *run) finish() error {
	for _, d := range r.closed {
		if err := r.closeDir(d); err != nil {
			return err
		}
	}
	if r.opts.Sync {
		if err := unix.Syncfs(r.target.fd); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
	}
	if err := r.target.removeMarker(); err != nil {
		return err
	}
	root := node{fd: r.target.fd, ino: flist.RootInode, reused: r.target.existed}
	if err := r.restore(root); err != nil {
		return err
	}
	r.entries.Add(1)
	return nil
}

func (r *run) result() Result {
	return Result{
		Entries: r.entries.Load(), Files: r.files.Load(), Bytes: r.bytes.Load(),
		NotRestored: r.losses.problems(),
	}
}
