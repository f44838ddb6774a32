package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// The bounds the project has set itself for a million entries.
const (
	loadMillis = 150
	loadMB     = 150
)

// Load measures loading an flist of a million entries from the store.
func Load(ctx context.Context, opts Options) (t Table, err error) {
	opts.Progress("building an flist of 1,000,000 entries")
	dir, err := os.MkdirTemp("", "flistnode-bench-")
	if err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := chunkstore.Open(filepath.Join(dir, "store"), chunkstore.Options{})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	c, err := million(ctx, store, dir, false)
	if err != nil {
		return t, err
	}
	opts.Progress("loading it")
	var millis, kept, peaks []float64
	for range max(opts.Runs, 3) {
		debug.FreeOSMemory()
		before := anonMemory(os.Getpid())
		peak := watchMemory(os.Getpid())
		began := time.Now()
		im, err := flist.LoadMapped(ctx, store, c, dir)
		millis = append(millis, time.Since(began).Seconds()*1000)
		peaks = append(peaks, peak()-before)
		if err != nil {
			return t, err
		}
		debug.FreeOSMemory()
		kept = append(kept, anonMemory(os.Getpid())-before)
		im.Close()
	}
	t.Title = "flist of 1,000,000 entries in the local store"
	t.add("load", median(millis), "ms", "the bound", loadMillis)
	t.add("memory while loading", median(peaks), "MB", "the bound", loadMB)
	t.add("memory kept", median(kept), "MB", "the bound", loadMB)
	return t, nil
}

// million writes an image of 10,000 directories of 99 files each; the files'
// content only if asked.
func million(ctx context.Context, sink chunk.Sink, tempDir string, content bool) (c cid.Cid, err error) {
	b, err := flist.NewBuilder(sink, flist.BuilderOptions{TempDir: tempDir})
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	dir := flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o755}}
	if err := b.Root(dir); err != nil {
		return c, err
	}
	const dirs, files, size = 10_000, 99, 3000
	b.NextDir()
	for i := range dirs {
		if _, err := b.Add(fmt.Appendf(nil, "directory-%05d", i), dir); err != nil {
			return c, err
		}
	}
	for d := range dirs {
		b.NextDir()
		for f := range files {
			n := uint32(d*files + f)
			_, err := b.Add(fmt.Appendf(nil, "file-%02d-%08x.txt", f, n*2654435761), flist.Node{
				Attr: flist.Attr{
					Mode:  flist.ModeRegular | 0o644,
					Mtime: flist.Time{Sec: 1_700_000_000 + int64(n*7919%1_000_000)},
					Btime: flist.Time{Sec: 1_700_000_000, Nsec: n * 977 % 1e9}, HasBtime: true,
				},
				Extents: []flist.Extent{{Kind: flist.Fresh, Length: size}},
				Digest:  chunk.Sum(fmt.Append(nil, n)), HasDigest: true,
			})
			if err != nil {
				return c, err
			}
		}
		id := chunk.Sum(fmt.Append(nil, "pack", d))
		if content {
			p := chunk.Pack(bytes.Repeat(fmt.Appendf(nil, "directory %019d\n", d), files*size/30))
			if err := sink.Put(ctx, p); err != nil {
				return c, err
			}
			id = p.ID
		}
		if err := b.AddChunk(flist.Packed, id, files*size); err != nil {
			return c, err
		}
	}
	b.NextDir()
	c, _, err = b.Finish(ctx)
	return c, err
}
