package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

const (
	// farDelay is how long a packet takes from one site to the other.
	farDelay = 10 * time.Millisecond
	farRound = 2 * farDelay
	// slowUplink is the slower of the two uplinks measured, in bits a second.
	slowUplink = 20_000_000
	coldReads  = 11
	// coldPause lets a connection forget between reads how fast it may send, as
	// it does when nobody has read for a while.
	coldPause  = time.Second
	coldPage   = 4 << 10
	smallShare = 16 // the small image has this part of the large one
)

// FirstRead measures reads of 4 KiB through a mount whose flist is loaded,
// from a chunk that only a node at another site has: beside two round trips and
// the time the chunk takes on the uplink, for a small and a large image.
func FirstRead(ctx context.Context, opts Options) (t Table, err error) {
	if err := fabric.Available(); err != nil {
		return t, fmt.Errorf("bench: no test network can be made here: %w", err)
	}
	dir, err := os.MkdirTemp("", "flistnode-bench-")
	if err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	f := &firstRead{opts: opts, dir: dir}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, f.end(stop), os.RemoveAll(dir))
	}()
	if err := f.begin(ctx); err != nil {
		return t, err
	}
	t.Title = fmt.Sprintf("a cold read of 4 KiB through a mount, from another site %s away and back", farRound)
	t.Notes = fmt.Sprintf("medians of %d reads at random places, %s apart, and the first read on a node by itself; the bound is two round trips and the time of the chunks that came, at the uplink's rate",
		coldReads-1, coldPause)
	for _, r := range f.runs() {
		if err := f.measure(ctx, &t, r); err != nil {
			return t, err
		}
	}
	return t, nil
}

// firstRun is what one fresh node reads, over which uplink.
type firstRun struct {
	image int
	rate  testnet.Rate
}

func (f *firstRead) runs() []firstRun {
	small, large, fast := 0, 1, f.opts.Rate
	return []firstRun{{small, slowUplink}, {large, slowUplink}, {small, fast}, {large, fast}}
}

// firstRead is the state of one FirstRead benchmark.
type firstRead struct {
	opts    Options
	dir     string
	net     *fabric.Fabric
	network *testnet.Network
	seed    *testnet.Node
	images  []readImage
	readers int
}

// readImage is an image of one file, on the seed.
type readImage struct {
	cid  string
	size int64
}

func (f *firstRead) begin(ctx context.Context) (err error) {
	sizes := []int64{f.opts.TransferBytes / smallShare, f.opts.TransferBytes}
	edge := fabric.Site{Name: "edge", Uplink: fabric.Shape{Delay: farDelay}}
	for i := range f.runs() {
		edge.Hosts = append(edge.Hosts, readerName(i))
	}
	if f.net, err = fabric.New(fabric.Config{Sites: []fabric.Site{{Name: "home", Hosts: []string{"seed"}}, edge}}); err != nil {
		return err
	}
	f.network = testnet.New(testnet.Config{Binary: f.opts.Binary, Dir: f.dir, Fabric: f.net})
	if f.seed, err = f.network.Start(ctx, "seed"); err != nil {
		return err
	}
	for i, size := range sizes {
		f.opts.Progress(fmt.Sprintf("making %d MiB and packing them on a node", size>>20))
		content := filepath.Join(f.dir, fmt.Sprintf("content%d", i))
		if err := testnet.MakeContent(content, size, size, uint64(i+1)); err != nil {
			return err
		}
		res, err := f.seed.Pack(ctx, api.PackRequest{Dir: content, Reproducible: true}, nil)
		if err != nil {
			return err
		}
		f.images = append(f.images, readImage{res.CID, size})
		if err := os.RemoveAll(content); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	return nil
}

func readerName(i int) string { return fmt.Sprintf("reader%d", i+1) }

func (f *firstRead) end(ctx context.Context) error {
	var errs []error
	if f.network != nil {
		errs = append(errs, f.network.Stop(ctx))
	}
	if f.net != nil {
		errs = append(errs, f.net.Close())
	}
	return errors.Join(errs...)
}

// measure reads on a fresh node.
func (f *firstRead) measure(ctx context.Context, t *Table, r firstRun) (err error) {
	im := f.images[r.image]
	name := fmt.Sprintf("%d MiB image over %s", im.size>>20, r.rate)
	f.opts.Progress("reads from a " + name)
	link, err := f.net.Link("edge")
	if err != nil {
		return err
	}
	if err := link.SetRate(int64(r.rate)); err != nil {
		return err
	}
	n, err := f.network.Start(ctx, readerName(f.readers), f.seed)
	if err != nil {
		return err
	}
	f.readers++
	defer func() { err = errors.Join(err, n.Stop(ctx), os.RemoveAll(n.Dir)) }()
	if err := n.WaitPeers(ctx, 1); err != nil {
		return err
	}
	if err := quiet(ctx, f.seed); err != nil { // it announces over the same uplink
		return err
	}
	target := filepath.Join(n.Dir, "mount")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if _, err := n.Mount(ctx, api.MountRequest{FList: im.cid, Dir: target, Prefetch: api.PrefetchNone}); err != nil {
		return err
	}
	took, floor, err := f.reads(ctx, n, filepath.Join(target, "file-0000"), im.size, r.rate)
	if err := errors.Join(err, n.Unmount(ctx, target, true)); err != nil {
		return err
	}
	t.add(name, median(took[1:]), "ms", "the bound", median(floor[1:]))
	t.add(name+", the first", took[0], "ms", "the bound", floor[0])
	return nil
}

// reads reads a page at random places of a file, and returns how long each
// took and what it should take at most, in milliseconds.
func (f *firstRead) reads(ctx context.Context, n *testnet.Node, path string, size int64, rate testnet.Rate) (took, floor []float64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("bench: open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM); err != nil { // a page is a page
		return nil, nil, fmt.Errorf("bench: advise %s: %w", path, err)
	}
	places := rand.New(rand.NewPCG(1, uint64(size)))
	page := make([]byte, coldPage)
	before, err := received(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	for range coldReads {
		select {
		case <-time.After(coldPause):
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
		at := places.Int64N(size/coldPage) * coldPage
		began := time.Now()
		if _, err := unix.Pread(fd, page, at); err != nil {
			return nil, nil, fmt.Errorf("bench: read %s: %w", path, err)
		}
		ms := millis(time.Since(began))
		after, err := received(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		if after > before { // else the chunk was here already
			took = append(took, ms)
			floor = append(floor, millis(2*farRound)+float64(after-before)*8e3/float64(rate))
		}
		before = after
	}
	if len(took) < 2 {
		return nil, nil, errors.New("bench: nearly every chunk read was here already")
	}
	return took, floor, nil
}

func millis(d time.Duration) float64 { return d.Seconds() * 1e3 }

// received returns the bytes of chunks a node has received.
func received(ctx context.Context, n *testnet.Node) (uint64, error) {
	s, err := n.Status(ctx)
	return s.Net.BytesReceived, err
}
