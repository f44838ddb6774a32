// Package pack turns a directory into an flist and chunks.
//
// Dir reads the tree breadth first, cuts its content (how stands beside the
// constants in cut.go), hands the chunks to a chunk.Sink as it goes and ends
// by writing the tables through a flist.Builder. The same tree gives the same
// CID at any number of workers, in any place and on any machine; the name of
// the directory itself is not part of it.
//
// It neither keeps chunks nor announces them: the sink does. It never follows
// a symlink, and opens nothing but directories and regular files.
//
// The way of the bytes:
//
//	walker     lists directories in canonical order, in batches of entries
//	readers    lstat, xattrs, small files whole, large ones cut     (parallel)
//	sequencer  takes the batches in order: dedupes, fills packs, drives the builder
//	putters    hash, compress and put finished chunks               (parallel)
//
// Each arrow between them is bounded: see Options.MemoryBytes.
//
// Dir may be called concurrently; each call has its own goroutines, all of
// which have ended when it returns.
package pack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options says how Dir packs. The zero value is ready to use.
type Options struct {
	// Workers is the number of readers, and of putters; 0 means GOMAXPROCS,
	// at most 32. It never changes the result.
	Workers int
	// Exclude leaves out what matches one of the patterns; see Excluder.
	Exclude []string
	// Skip holds directories outside the question of what is in the tree
	// (the data directory of the node that packs): where the walk meets one,
	// it keeps the directory but nothing in it, and logs a warning.
	Skip []string
	// OneFileSystem keeps directories on which another file system is
	// mounted as empty ones. Other kinds of files are not looked at: overlayfs
	// reports device numbers for them that differ from their directory's.
	OneFileSystem bool
	// Reproducible leaves out birth times.
	Reproducible bool
	// SourceDateEpoch, in seconds, is put in the place of any later time.
	SourceDateEpoch *int64
	// IgnoreUnreadable leaves out what cannot be read (a directory is kept,
	// empty) and names it in Result.Unreadable instead of failing.
	IgnoreUnreadable bool
	// Annotations go into the root block.
	Annotations map[string]string
	// TempDir is where tables grow while the tree is read; "" means os.TempDir.
	TempDir string
	// Progress, if not nil, is called about ten times a second and once at the
	// end, never from two goroutines at once.
	Progress func(Progress)
	// Log takes warnings; nil means none.
	Log *slog.Logger
	// MemoryBytes bounds the content held at a time; 0 means 64 MiB, and less
	// than 16 MiB counts as that. On top come up to 100 MB of indexes
	// for finding equal content, about 40 bytes for each entry of the
	// directory at hand, each directory not yet read and each inode with
	// several names, and 48 bytes for each 128 KiB of the large files at hand.
	MemoryBytes int64
}

// Progress says how far Dir has come. The end is not known beforehand.
type Progress struct {
	Entries     int64 // names seen
	Files       int64 // regular files, hard links once
	Bytes       int64 // their content, without holes
	StoredBytes int64 // encoded bytes of the chunks put so far
	Chunks      int64 // chunks put so far
}

// Result is what Dir made.
type Result struct {
	CID         cid.Cid
	Root        *flist.Root
	Entries     int64     // names in the tree, the root apart
	Files       int64     // regular files, hard links once
	Bytes       int64     // their content, without holes
	DataBytes   int64     // plain bytes of distinct content laid down
	StoredBytes int64     // encoded bytes of the data chunks put into the sink
	Chunks      int       // data chunks of the image
	Unreadable  []Problem // what IgnoreUnreadable let pass, at most MaxProblems
	Elapsed     time.Duration
}

// MaxProblems bounds the problems that are named; further ones are counted.
const MaxProblems = 10_000

// Problem is something in the tree that could not be read.
type Problem struct {
	Path string // in the tree, beginning with "/"
	Err  error
}

func (p Problem) Error() string { return fmt.Sprintf("%q: %v", p.Path, p.Err) }

// Unwrap returns what went wrong.
func (p Problem) Unwrap() error { return p.Err }

// UnreadableError says that parts of the tree could not be read, so that no
// flist was made.
type UnreadableError struct {
	Problems []Problem // in the order of the walk, at most MaxProblems
	Count    int       // how many there were
}

func (e *UnreadableError) Error() string {
	s := fmt.Sprintf("%d of the entries cannot be read: %v", e.Count, e.Problems[0])
	if e.Count > 1 {
		s += ", ..."
	}
	return s
}

// Unwrap returns the problems.
func (e *UnreadableError) Unwrap() []error {
	errs := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		errs[i] = p
	}
	return errs
}

// ErrChanging says that a file was written to each time it was read.
var ErrChanging = errors.New("the file changes while it is read")

// Dir packs the tree below dir into sink. The chunks handed to sink are named
// by hashes computed from their content. Errors: *UnreadableError; the sink's
// own error, as soon as there is one; the context's. Chunks that were put
// before an error stay in the sink.
func Dir(ctx context.Context, dir string, sink chunk.Sink, opts Options) (Result, error) {
	start := time.Now()
	opts = opts.withDefaults()
	p, err := newPacker(dir, sink, opts)
	if err != nil {
		return Result{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	res, err := p.run(ctx)
	if err = errors.Join(err, p.close()); err != nil {
		return Result{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	res.Elapsed = time.Since(start)
	return res, nil
}

func (o Options) withDefaults() Options {
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), 32)
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 64 << 20
	}
	o.MemoryBytes = max(o.MemoryBytes, 16<<20)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// packer is one run of Dir.
type packer struct {
	opts   Options
	walker *walker
	reader *reader
	putter *putter
	seq    *sequencer
	counts counters
	order  chan *batch // to the sequencer, in canonical order
	jobs   chan *batch // the same batches, to the readers
}

func newPacker(dir string, sink chunk.Sink, opts Options) (*packer, error) {
	exclude, err := NewExcluder(opts.Exclude)
	if err != nil {
		return nil, err
	}
	// A batch holds at most 1 MiB of small files; half of the memory is theirs.
	inFlight := int(min(int64(4*opts.Workers), opts.MemoryBytes/2/(batchEntries*SmallFile)))
	p := &packer{
		opts:  opts,
		order: make(chan *batch, inFlight),
		jobs:  make(chan *batch, inFlight+1),
	}
	links := newLinks()
	p.putter = newPutter(sink, opts.MemoryBytes/4, opts.Workers, &p.counts)
	p.reader = newReader(p.putter, links)
	if p.seq, err = newSequencer(sink, opts, links, p.putter, &p.counts); err != nil {
		return nil, err
	}
	if p.walker, err = newWalker(dir, opts, exclude, p.reader.opener); err != nil {
		return nil, errors.Join(err, p.seq.close())
	}
	return p, nil
}

func (p *packer) close() error {
	p.walker.close()
	return p.seq.close()
}

// run owns all goroutines. A failure of one cancels the context of the others.
func (p *packer) run(ctx context.Context) (Result, error) {
	root, err := p.reader.root(p.walker.root.fd)
	if err != nil {
		return Result{}, Problem{Path: "/", Err: err}
	}
	stopProgress := p.counts.report(p.opts.Progress)
	defer stopProgress()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(p.order)
		defer close(p.jobs)
		return p.walker.run(gctx, p.emit)
	})
	for range p.opts.Workers {
		g.Go(func() error { return p.reader.run(gctx, p.jobs) })
		g.Go(func() error { return p.putter.run(gctx) })
	}
	g.Go(func() error {
		if err := p.seq.run(gctx, root, p.order); err != nil {
			return err
		}
		p.reader.finish()
		p.putter.finish()
		return nil
	})
	err = g.Wait()
	p.releaseRest()
	if err != nil {
		return Result{}, err
	}
	return p.seq.finish(ctx)
}

func (p *packer) emit(ctx context.Context, b *batch) error {
	select {
	case p.order <- b:
	case <-ctx.Done():
		b.release()
		return ctx.Err()
	}
	p.jobs <- b // has room for whatever order lets through
	return nil
}

// releaseRest closes the directories of batches nobody took because of an error.
func (p *packer) releaseRest() {
	for b := range p.jobs {
		b.release()
	}
}

// checkProc makes sure that attributes of links and devices can be read.
func checkProc(fd int) error {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/self/fd/%d", fd), &st); err != nil {
		return fmt.Errorf("reading extended attributes needs /proc to be mounted: %w", err)
	}
	return nil
}
