package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/node"
	"github.com/flistnode/flistnode/node/api"
)

// How long, and how often, it is tried to get at a daemon asked for by its
// socket, or at a data directory that another process has: a daemon that is just
// starting answers by then, a command that is ending has ended.
const (
	daemonWait = 3 * time.Second
	daemonPoll = 50 * time.Millisecond
)

// withNode calls do with a client of the daemon, if one answers on the control
// socket, else of a node of this process that lives as long as do runs. With
// --api the daemon is meant, and nobody else will do.
func (a *app) withNode(ctx context.Context, do func(context.Context, *api.Client) error) error {
	return a.byDaemonOrNode(ctx, do, func(ctx context.Context, _ *node.Node, c *api.Client) error { return do(ctx, c) })
}

// byDaemonOrNode calls daemon with a client of the daemon, if one answers, else
// own with a node of this process, and one of them once at most.
func (a *app) byDaemonOrNode(ctx context.Context, daemon func(context.Context, *api.Client) error,
	own func(context.Context, *node.Node, *api.Client) error,
) error {
	begun := false
	try := func() error {
		c, err := a.dial()
		if err != nil {
			return err
		}
		if c == nil && a.settings.origin["api"] == "flag --api" {
			return a.nobodyListens()
		}
		if c == nil {
			return a.ownNode(ctx, func(ctx context.Context, n *node.Node, c *api.Client) error {
				begun = true
				return own(ctx, n, c)
			})
		}
		begun = true
		return errors.Join(daemon(ctx, c), c.Close())
	}
	return whileStarting(ctx, try, func() bool { return !begun })
}

// whileStarting calls try until it does not fail because there is no daemon or
// another process has the data directory, again says no, or daemonWait is over.
func whileStarting(ctx context.Context, try func() error, again func() bool) error {
	end := time.Now().Add(daemonWait)
	tick := time.NewTicker(daemonPoll)
	defer tick.Stop()
	for {
		err := try()
		if !errors.Is(err, api.ErrInUse) && !errors.Is(err, api.ErrNoDaemon) || !again() || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// withDaemon is withNode for commands that mean nothing without a daemon.
func (a *app) withDaemon(ctx context.Context, do func(context.Context, *api.Client) error) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	if c == nil {
		return a.nobodyListens()
	}
	return errors.Join(do(ctx, c), c.Close())
}

func (a *app) nobodyListens() error {
	return fmt.Errorf("%w: nobody listens on %s", api.ErrNoDaemon, quote(a.settings.node.API))
}

// dial returns a client of the daemon, or nil if there is none.
func (a *app) dial() (*api.Client, error) {
	socket := a.settings.node.API
	c, err := api.Dial(socket)
	if errors.Is(err, api.ErrNoDaemon) {
		a.log.Debug("no daemon, using a node of this process", "socket", socket)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if given := a.settings.givenToNode(); len(given) > 0 {
		fmt.Fprintf(a.stderr, "flistnode: the daemon on %s has settings of its own: --%s has no effect\n",
			quote(socket), strings.Join(given, ", --"))
	}
	return c, nil
}

// ownNode runs a node in this process while do runs, and gives do a client of
// it. It listens on free ports unless told where, since it is not the daemon
// of this machine.
func (a *app) ownNode(ctx context.Context, do func(context.Context, *node.Node, *api.Client) error) error {
	cfg := a.settings.node
	if a.settings.origin["listen"] == originDefault {
		cfg.Listen = []string{"/ip4/0.0.0.0/tcp/0"}
		if cfg.SwarmKey == "" { // QUIC cannot carry a private network
			cfg.Listen = append(cfg.Listen, "/ip4/0.0.0.0/udp/0/quic-v1")
		}
	}
	return a.runNode(ctx, cfg, func(ctx context.Context, n *node.Node) error {
		c := api.InProcess(api.Handler(n))
		return errors.Join(do(ctx, n, c), c.Close())
	})
}

// runNode opens a node and runs it while do runs. When the node fails, do's
// context ends; when do returns, the node is stopped and closed.
func (a *app) runNode(ctx context.Context, cfg node.Config, do func(context.Context, *node.Node) error) error {
	n, err := node.New(ctx, cfg, a.log)
	if err != nil {
		return err
	}
	// The node outlives do, also when ctx ends, so that what do began can be
	// ended in order.
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.Run(runCtx) })
	g.Go(func() error {
		defer stop()
		return do(ctx, n)
	})
	return errors.Join(g.Wait(), n.Close())
}
