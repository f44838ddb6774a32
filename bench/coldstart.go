package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

// coldSeeds is how many nodes have the image.
const coldSeeds = 3

// ColdStart measures programs run in a chroot of an image that is on three
// other nodes, over slow links, from the mount to their exit: without and with
// a profile, beside the floor and beside pulling all of it first.
func ColdStart(ctx context.Context, opts Options) (t Table, err error) {
	if err := fabric.Available(); err != nil {
		return t, fmt.Errorf("bench: no test network can be made here: %w", err)
	}
	dir, done, err := workDir(opts)
	if err != nil {
		return t, err
	}
	c := &coldBench{opts: opts, dir: filepath.Join(dir, "flistnode-coldstart"), works: appWorkloads(opts.Root)}
	defer func() { err = errors.Join(err, c.end(context.WithoutCancel(ctx)), done()) }()
	if err := c.begin(ctx); err != nil {
		return t, err
	}
	t.Title = fmt.Sprintf("programs in a chroot of %s, which is on %d other nodes, every link %s", opts.Root, coldSeeds, opts.Rate)
	t.Notes = fmt.Sprintf("%d runs each, medians; the floor is the chunks touched, compressed, over the rate, and a warm run; pulling is %.0f MB of tar.zst over the rate",
		opts.Runs, float64(c.archive)/1e6)
	for _, w := range c.works {
		if err := c.measure(ctx, &t, w); err != nil {
			return t, err
		}
	}
	return t, nil
}

// coldBench is the state of one ColdStart benchmark.
type coldBench struct {
	opts    Options
	dir     string
	works   []workload
	net     *fabric.Fabric
	network *testnet.Network
	seeds   []*testnet.Node
	cid     string
	archive int64 // bytes of the tar.zst
	fresh   int   // nodes used so far
}

// begin makes the network and brings the image to the seeds, fast; then the
// links become slow.
func (c *coldBench) begin(ctx context.Context) (err error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if c.archive, err = archiveSize(ctx, c.opts, c.dir); err != nil {
		return err
	}
	site := fabric.Site{Name: "s"}
	for i := range coldSeeds {
		site.Hosts = append(site.Hosts, fmt.Sprintf("seed%d", i+1))
	}
	for i := range 2 * c.opts.Runs * len(c.works) {
		site.Hosts = append(site.Hosts, fmt.Sprintf("fresh%d", i+1))
	}
	if c.net, err = fabric.New(fabric.Config{Sites: []fabric.Site{site}}); err != nil {
		return err
	}
	c.network = testnet.New(testnet.Config{Binary: c.opts.Binary, Dir: c.dir, Fabric: c.net})
	for i := range coldSeeds {
		c.opts.Progress("bringing the image to " + site.Hosts[i])
		n, err := c.network.Start(ctx, site.Hosts[i], c.seeds...)
		if err != nil {
			return err
		}
		c.seeds = append(c.seeds, n)
		if i == 0 {
			packed, err := n.Pack(ctx, api.PackRequest{Dir: c.opts.Root}, nil)
			if err != nil {
				return err
			}
			c.cid = packed.CID
		} else if _, err := n.Fetch(ctx, api.FetchRequest{FList: c.cid}, nil); err != nil {
			return err
		}
		if err := n.DropProfile(ctx, c.cid); err != nil {
			return err
		}
	}
	for _, n := range c.seeds {
		if err := quiet(ctx, n); err != nil {
			return err
		}
	}
	for _, h := range site.Hosts {
		link, err := c.net.Link(h)
		if err != nil {
			return err
		}
		if err := link.SetRate(int64(c.opts.Rate)); err != nil {
			return err
		}
	}
	return nil
}

// quietTime bounds the wait for a seed that has just started to have
// announced what it holds.
const quietTime = 2 * time.Minute

// quiet waits until a node has announced what it holds.
func quiet(ctx context.Context, n *testnet.Node) error {
	for end := time.Now().Add(quietTime); time.Now().Before(end); {
		s, err := n.Status(ctx)
		if err != nil || s.Announce.Pending == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil // what is left to announce goes on beside the measurement
}

// archiveSize returns how many bytes a tar.zst of the root has.
func archiveSize(ctx context.Context, opts Options, dir string) (int64, error) {
	path := filepath.Join(dir, "archive-size")
	if b, err := os.ReadFile(path); err == nil {
		return strconv.ParseInt(string(b), 10, 64)
	}
	opts.Progress("weighing a tar.zst of " + opts.Root)
	r, err := command(ctx, "sh", "-c", `tar -C "$0" -cf - . | zstd -q -3 -T0 | wc -c`, opts.Root)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(r.stdout, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	return n, os.WriteFile(path, []byte(r.stdout), 0o600)
}

func (c *coldBench) end(ctx context.Context) error {
	var errs []error
	if c.network != nil {
		errs = append(errs, c.network.Stop(ctx))
	}
	if c.net != nil {
		errs = append(errs, c.net.Close())
	}
	return errors.Join(errs...)
}

// coldRun is one start on a node that had nothing.
type coldRun struct {
	seconds float64 // from the mount to the exit
	mount   float64 // of them, the mount
	warm    float64 // the same program once more
	linked  float64 // MB the node's link received meanwhile, headers, announcements and all
	moved   float64 // MB of chunks that came, compressed, metadata included
	touched api.ProfileInfo
}

// measure starts one program on fresh nodes, without a profile and then with
// the one that the first of them recorded.
func (c *coldBench) measure(ctx context.Context, t *Table, w workload) error {
	var without, with []coldRun
	var recorder *testnet.Node
	for round := range c.opts.Runs {
		c.opts.Progress(fmt.Sprintf("%s: round %d of %d", w.name, round+1, c.opts.Runs))
		r, n, err := c.start(ctx, w, api.PrefetchNone, nil)
		if err != nil {
			return err
		}
		without = append(without, r)
		if recorder != nil {
			if err := c.discard(ctx, n); err != nil {
				return err
			}
		} else {
			recorder = n
		}
		r, n, err = c.start(ctx, w, api.PrefetchProfile, recorder)
		if err != nil {
			return err
		}
		with = append(with, r)
		if err := c.discard(ctx, n); err != nil {
			return err
		}
	}
	c.rows(t, w, without, with)
	return c.discard(ctx, recorder)
}

// start runs w on a fresh node.
func (c *coldBench) start(ctx context.Context, w workload, prefetch string, recorder *testnet.Node) (r coldRun, n *testnet.Node, err error) {
	c.fresh++
	name := fmt.Sprintf("fresh%d", c.fresh)
	if err := os.RemoveAll(filepath.Join(c.dir, name)); err != nil {
		return r, nil, fmt.Errorf("bench: %w", err)
	}
	peers := c.seeds
	if recorder != nil {
		peers = append(peers[:len(peers):len(peers)], recorder)
	}
	if n, err = c.network.Start(ctx, name, peers...); err != nil {
		return r, nil, err
	}
	if err := n.WaitPeers(ctx, len(peers)); err != nil {
		return r, n, err
	}
	link, err := c.net.Link(name)
	if err != nil {
		return r, n, err
	}
	before, err := link.Counters()
	if err != nil {
		return r, n, err
	}
	target := filepath.Join(n.Dir, "mount")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return r, n, fmt.Errorf("bench: %w", err)
	}
	began := time.Now()
	if _, err := n.Mount(ctx, api.MountRequest{FList: c.cid, Dir: target, AllowOther: true, Devices: true, Prefetch: prefetch}); err != nil {
		return r, n, err
	}
	r.mount = time.Since(began).Seconds()
	if _, err := w.run(ctx, target); err != nil {
		return r, n, err
	}
	r.seconds = time.Since(began).Seconds()
	after, err := link.Counters()
	if err != nil {
		return r, n, err
	}
	r.linked = float64(after.ReceivedBytes-before.ReceivedBytes) / 1e6
	status, err := n.Status(ctx)
	if err != nil {
		return r, n, err
	}
	r.moved = float64(status.Net.BytesReceived) / 1e6 // the node is new: before it was 0
	if r.touched, err = n.RecordProfile(ctx, c.cid); err != nil {
		return r, n, err
	}
	if r.warm, err = w.run(ctx, target); err != nil {
		return r, n, err
	}
	return r, n, n.Unmount(ctx, target, true)
}

// discard ends a node and removes what it holds.
func (c *coldBench) discard(ctx context.Context, n *testnet.Node) error {
	if err := n.Stop(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

func (c *coldBench) rows(t *Table, w workload, without, with []coldRun) {
	of := func(runs []coldRun, f func(coldRun) float64) float64 {
		var xs []float64
		for _, r := range runs {
			xs = append(xs, f(r))
		}
		return median(xs)
	}
	seconds := func(r coldRun) float64 { return r.seconds }
	packed := of(without, func(r coldRun) float64 { return float64(r.touched.PackedBytes) / 1e6 })
	floor := packed*8e6/float64(c.opts.Rate) + of(without, func(r coldRun) float64 { return r.warm })
	pull := float64(c.archive)*8/float64(c.opts.Rate) + of(without, func(r coldRun) float64 { return r.warm })
	t.add(w.name+", no profile", of(without, seconds), "s", "the floor", floor)
	t.add(w.name+", with a profile", of(with, seconds), "s", "the floor", floor)
	t.add(w.name+", no profile", of(without, seconds), "s", "pulling first", pull)
	t.add(w.name+", with a profile", of(with, seconds), "s", "pulling first", pull)
	t.add(w.name+", the mount", of(without, func(r coldRun) float64 { return r.mount }), "s", "", 0)
	moved := func(r coldRun) float64 { return r.moved }
	t.add(w.name+", moved, no profile", of(without, moved), "MB", "chunks touched, compressed", packed)
	t.add(w.name+", moved, with a profile", of(with, moved), "MB", "chunks touched, compressed", packed)
	linked := func(r coldRun) float64 { return r.linked }
	t.add(w.name+", on the link, no profile", of(without, linked), "MB", "chunks touched, compressed", packed)
	t.add(w.name+", on the link, with a profile", of(with, linked), "MB", "chunks touched, compressed", packed)
	t.add(w.name+", chunks touched, plain", of(without, func(r coldRun) float64 { return float64(r.touched.Bytes) / 1e6 }), "MB", "", 0)
}
