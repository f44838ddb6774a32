package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
)

// Mount measures reading a local image through a mount beside the directory it
// was packed from and, where they are installed, EROFS and squashfs images of
// it, with a warm and with a cold page cache. It needs root for the chroots,
// the images and the cold page cache, and leaves out what it may not do.
func Mount(ctx context.Context, opts Options) (t Table, err error) {
	dir, done, err := workDir(opts)
	if err != nil {
		return t, err
	}
	m := &mountBench{opts: opts, dir: dir, network: testnet.New(testnet.Config{Binary: opts.Binary, Dir: dir})}
	defer func() { err = errors.Join(err, m.end(context.WithoutCancel(ctx)), done()) }()
	if err := m.begin(ctx); err != nil {
		return t, err
	}
	t.Title = "reading " + opts.Root + " through a mount, all of it local"
	t.Notes = fmt.Sprintf("%d runs of each side in turn, medians; the daemon is started anew before each run with a cold page cache, and has announced what it holds", opts.Runs)
	return t, m.run(ctx, &t)
}

// workDir returns the directory a benchmark works in and what ends its use: a
// temporary one, unless the user named one to keep.
func workDir(opts Options) (dir string, done func() error, err error) {
	if opts.Work != "" {
		if err := os.MkdirAll(opts.Work, 0o700); err != nil {
			return "", nil, fmt.Errorf("bench: %w", err)
		}
		return opts.Work, func() error { return nil }, nil
	}
	dir, err = os.MkdirTemp("", "flistnode-bench-")
	if err != nil {
		return "", nil, fmt.Errorf("bench: %w", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

// mountBench is the state of one Mount benchmark.
type mountBench struct {
	opts    Options
	dir     string
	network *testnet.Network
	node    *testnet.Node
	cid     string
	target  string // where the flist is mounted
	mounted bool
	sides   []side // ours first
}

// begin packs, mounts, and makes the other sides.
func (m *mountBench) begin(ctx context.Context) (err error) {
	m.opts.Progress("packing " + m.opts.Root)
	if m.node, err = m.network.Start(ctx, "local"); err != nil {
		return err
	}
	packed, err := m.node.Pack(ctx, api.PackRequest{Dir: m.opts.Root}, nil)
	if err != nil {
		return err
	}
	m.cid, m.target = packed.CID, filepath.Join(m.dir, "mount")
	if err := os.MkdirAll(m.target, 0o700); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := m.mount(ctx); err != nil {
		return err
	}
	m.sides = []side{
		{name: "flistnode", root: m.target, renew: m.restart},
		{name: "the source on " + fsName(m.opts.Root), root: m.opts.Root},
	}
	images, err := imageSides(ctx, m.opts, m.dir)
	m.sides = append(m.sides, images...)
	return err
}

func (m *mountBench) mount(ctx context.Context) error {
	_, err := m.node.Mount(ctx, api.MountRequest{FList: m.cid, Dir: m.target, AllowOther: true, Devices: os.Geteuid() == 0})
	m.mounted = err == nil
	return err
}

func (m *mountBench) unmount(ctx context.Context) error {
	if !m.mounted {
		return nil
	}
	m.mounted = false
	return m.node.Unmount(ctx, m.target, true)
}

// restart starts the daemon anew, so that nothing of the image is in its
// memory. It unmounts first: a daemon that starts brings back its mounts.
func (m *mountBench) restart(ctx context.Context) (err error) {
	if err := m.unmount(ctx); err != nil {
		return err
	}
	if err := m.node.Stop(ctx); err != nil {
		return err
	}
	if m.node, err = m.network.Start(ctx, "local"); err != nil {
		return err
	}
	if err := m.mount(ctx); err != nil {
		return err
	}
	return settle(ctx, m.node)
}

// settle waits until a daemon that has just started is done with what it does
// at its start, as announcing what it holds: 10 s at most.
func settle(ctx context.Context, n *testnet.Node) error {
	const still, most = 4, 100
	for tries, quiet := 0, 0; tries < most && quiet < still; tries++ {
		before := n.CPU()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
		quiet++
		if n.CPU()-before > 10*time.Millisecond {
			quiet = 0
		}
	}
	return nil
}

func (m *mountBench) end(ctx context.Context) error {
	errs := []error{m.unmount(ctx)} // or the next run with the same --work finds it mounted
	for _, s := range m.sides {
		if s.unmount != nil {
			errs = append(errs, s.unmount(ctx))
		}
	}
	return errors.Join(append(errs, m.network.Stop(ctx))...)
}

// run measures all workloads, each on all sides in turn.
func (m *mountBench) run(ctx context.Context, t *Table) error {
	works, err := mountWorkloads(m.opts.Root)
	if err != nil {
		return err
	}
	for _, cold := range []bool{false, true} {
		if cold && !canDropCaches() {
			t.Notes += "; no cold runs: only root can drop the page cache"
			break
		}
		for _, w := range works {
			if !m.opts.only(caseName(w, cold)) {
				continue
			}
			if err := m.compare(ctx, t, w, cold); err != nil {
				return err
			}
		}
	}
	if len(t.Rows) == 0 {
		return fmt.Errorf("bench: no case of mount matches %s", m.opts.Only)
	}
	return nil
}

// caseName is what a row of the table is called.
func caseName(w workload, cold bool) string {
	if cold {
		return w.name + ", cold"
	}
	return w.name + ", warm"
}

// compare measures one workload and adds a row for each other side.
func (m *mountBench) compare(ctx context.Context, t *Table, w workload, cold bool) error {
	name := caseName(w, cold)
	seconds := make([][]float64, len(m.sides))
	if !cold && canDropCaches() {
		// Else what other programs left in a full memory stays, and what a side
		// has read once is thrown out by what the next reads.
		if err := emptyPageCache(); err != nil {
			return err
		}
	}
	for round := range m.opts.Runs + 1 {
		if cold && round == 0 {
			continue // there is nothing to warm
		}
		m.opts.Progress(fmt.Sprintf("%s: round %d of %d", name, round, m.opts.Runs))
		for i, s := range m.sides {
			if cold {
				if err := s.cool(ctx); err != nil {
					return err
				}
			}
			took, err := w.run(ctx, s.root)
			if err != nil {
				return fmt.Errorf("%s on %s: %w", w.name, s.name, err)
			}
			if round > 0 {
				seconds[i] = append(seconds[i], took)
			}
		}
	}
	for i, s := range m.sides[1:] {
		t.add(name, median(seconds[0]), "s", s.name, median(seconds[i+1]))
	}
	return nil
}
