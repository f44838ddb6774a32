package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
)

// Mount measures an image mounted by CID on a node that has nothing of it,
// and reading it when it is local, beside the directory it was packed from.
func Mount(ctx context.Context, opts Options) (t Table, err error) {
	dir, err := os.MkdirTemp("", "flistnode-bench-")
	if err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	network := testnet.New(testnet.Config{Binary: opts.Binary, Dir: dir})
	defer func() { err = errors.Join(err, network.Stop(context.WithoutCancel(ctx)), os.RemoveAll(dir)) }()
	opts.Progress("starting three nodes, packing on the first")
	nodes, err := network.Line(ctx, 3)
	if err != nil {
		return t, err
	}
	if err := nodes[2].WaitPeers(ctx, 2); err != nil {
		return t, err
	}
	packed, err := nodes[0].Pack(ctx, api.PackRequest{Dir: opts.Root}, nil)
	if err != nil {
		return t, err
	}
	m := mountBench{opts: opts, node: nodes[2], cid: packed.CID, target: filepath.Join(dir, "mount")}
	if err := os.Mkdir(m.target, 0o700); err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	t.Title = "mounting " + opts.Root + " by CID"
	return t, m.run(ctx, &t)
}

type mountBench struct {
	opts   Options
	node   *testnet.Node
	cid    string
	target string
}

func (m *mountBench) run(ctx context.Context, t *Table) (err error) {
	// Pulling first is what everybody else does: all bytes, then all files.
	m.opts.Progress("mounting on the last, which has nothing of it")
	cold, err := m.mountAndList(ctx)
	if err != nil {
		return err
	}
	m.opts.Progress("reading all of it through the network")
	readAll, err := command(ctx, "sh", "-c", `tar -C "$0" -cf - . | cat >/dev/null`, m.target)
	if err != nil {
		return errors.Join(err, m.node.Unmount(ctx, m.target, true))
	}
	t.add("CID to first ls, nothing local", cold, "s", "reading all of it first", readAll.seconds)
	defer func() { err = errors.Join(err, m.node.Unmount(context.WithoutCancel(ctx), m.target, true)) }()
	for _, c := range []struct{ name, script string }{
		{"find -printf %s, warm", `find "$0" -printf %s >/dev/null`},
		{"tar c, warm", `tar -C "$0" -cf - . | cat >/dev/null`},
	} {
		var mount, disk []float64
		for round := range m.opts.Runs + 1 {
			m.opts.Progress(fmt.Sprintf("round %d of %d: %s", round, m.opts.Runs, c.name))
			a, err := command(ctx, "sh", "-c", c.script, m.target)
			if err != nil {
				return err
			}
			b, err := command(ctx, "sh", "-c", c.script, m.opts.Root)
			if err != nil {
				return err
			}
			if round > 0 {
				mount, disk = append(mount, a.seconds), append(disk, b.seconds)
			}
		}
		t.add(c.name, median(mount), "s", "the source on its own file system", median(disk))
	}
	return nil
}

// mountAndList returns the seconds from the CID to a listed root directory.
func (m *mountBench) mountAndList(ctx context.Context) (float64, error) {
	r, err := command(ctx, m.opts.Binary, "--api", m.node.Socket(), "mount", m.cid, m.target)
	if err != nil {
		return 0, err
	}
	ls, err := command(ctx, "ls", m.target)
	if err != nil {
		return 0, errors.Join(err, m.node.Unmount(ctx, m.target, true))
	}
	return r.seconds + ls.seconds, nil
}
