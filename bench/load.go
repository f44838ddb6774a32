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
	"github.com/flistnode/flistnode/testnet"
)

// The bounds the project has set itself for a million entries.
const (
	loadMillis      = 150
	loadMB          = 150
	firstListMillis = 150
)

// Load measures how soon an flist of a million entries, all of it in the local
// store, can be used: loading it, and from the mount command to the end of the
// first ls. Once it was used its tables are saved for the next start, so all
// is measured without and with saved tables.
func Load(ctx context.Context, opts Options) (t Table, err error) {
	dir, done, err := workDir(opts)
	if err != nil {
		return t, err
	}
	l := &loadBench{opts: opts, dir: filepath.Join(dir, "million"),
		network: testnet.New(testnet.Config{Binary: opts.Binary, Dir: dir})}
	defer func() { err = errors.Join(err, l.network.Stop(context.WithoutCancel(ctx)), done()) }()
	if l.cid, err = millionNode(ctx, opts, l.dir); err != nil {
		return t, err
	}
	t.Title = "flist of 1,000,000 entries, all of it in the local store"
	t.Notes = "medians; mount and ls are processes, the daemon was started anew and had an idle second"
	opts.Progress("loading it")
	if err := l.load(ctx, &t); err != nil {
		return t, err
	}
	opts.Progress("mounting it")
	return t, l.mounts(ctx, &t)
}

// loadBench is the state of one Load benchmark.
type loadBench struct {
	opts    Options
	dir     string // of the node
	cid     string
	network *testnet.Network
}

// load measures loading in this process.
func (l *loadBench) load(ctx context.Context, t *Table) (err error) {
	root, err := flist.ParseCID(l.cid)
	if err != nil {
		return err
	}
	store, err := chunkstore.Open(filepath.Join(l.dir, "data", "store"), chunkstore.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var millis, again, kept, peaks []float64
	path := filepath.Join(l.dir, "saved")
	for range max(l.opts.Runs, 3) {
		debug.FreeOSMemory()
		before := anonMemory(os.Getpid())
		peak := watchMemory(os.Getpid())
		began := time.Now()
		im, err := flist.LoadMapped(ctx, store, root, l.dir)
		millis = append(millis, time.Since(began).Seconds()*1000)
		peaks = append(peaks, peak()-before)
		if err != nil {
			return err
		}
		debug.FreeOSMemory()
		kept = append(kept, anonMemory(os.Getpid())-before)
		err = saveTables(im, path)
		im.Close()
		if err != nil {
			return err
		}
		began = time.Now()
		if im, err = flist.LoadSaved(ctx, store, root, path); err != nil {
			return err
		}
		again = append(again, time.Since(began).Seconds()*1000)
		im.Close()
	}
	t.add("load from the chunks", median(millis), "ms", "the bound", loadMillis)
	t.add("memory while loading", median(peaks), "MB", "the bound", loadMB)
	t.add("memory kept", median(kept), "MB", "the bound", loadMB)
	t.add("load from saved tables", median(again), "ms", "the bound", loadMillis)
	return os.Remove(path)
}

func saveTables(im *flist.Image, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return errors.Join(im.Save(f), f.Close())
}

// mounts measures from the mount command to the end of the first ls.
func (l *loadBench) mounts(ctx context.Context, t *Table) error {
	var first, again []float64
	tables := filepath.Join(l.dir, "data", "tables")
	for range max(l.opts.Runs, 3) {
		if err := os.RemoveAll(tables); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		for _, to := range []*[]float64{&first, &again} {
			ms, err := l.mount(ctx, filepath.Join(tables, l.cid))
			if err != nil {
				return err
			}
			*to = append(*to, ms)
		}
	}
	t.add("mount and first ls, tables saved", median(again), "ms", "the bound", firstListMillis)
	t.add("the same, never used here before", median(first), "ms", "the bound", firstListMillis)
	return nil
}

// mount starts the daemon, mounts, lists the root, waits until the tables are
// saved, and ends the daemon. It returns the milliseconds of mount and ls.
func (l *loadBench) mount(ctx context.Context, saved string) (ms float64, err error) {
	n, err := l.network.Start(ctx, filepath.Base(l.dir))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.Stop(context.WithoutCancel(ctx))) }()
	target := filepath.Join(l.dir, "mount")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	time.Sleep(time.Second)
	mount, err := command(ctx, l.opts.Binary, "--api", n.Socket(), "mount", l.cid, target)
	if err != nil {
		return 0, err
	}
	list, err := command(ctx, "ls", target)
	if err != nil {
		return 0, err
	}
	ms = (mount.seconds + list.seconds) * 1000
	for range 300 { // the daemon lets some seconds pass
		if _, err = os.Stat(saved); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return ms, errors.Join(err, n.Unmount(context.WithoutCancel(ctx), target, true))
}

// million writes an image of 10,000 directories of 99 files each.
func million(ctx context.Context, sink chunk.Sink, tempDir string) (c cid.Cid, err error) {
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
		p := chunk.Pack(bytes.Repeat(fmt.Appendf(nil, "directory %019d\n", d), files*size/30))
		if err := sink.Put(ctx, p); err != nil {
			return c, err
		}
		if err := b.AddChunk(flist.Packed, p.ID, files*size); err != nil {
			return c, err
		}
	}
	b.NextDir()
	c, _, err = b.Finish(ctx)
	return c, err
}
