package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/node"
	"github.com/flistnode/flistnode/node/api"
)

func newDaemon(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "daemon",
		Short: "Run a node: hold, announce, fetch, serve and mount flists",
		Long: `Run a node until it is told to stop: hold the store, find peers, announce what is
held, serve it, fetch what is missed, and keep mounts. The other commands of
this machine go through its control socket, which only the same user and root
may use.

It listens on --listen, begins with --peer and the peers it knew when it last
ran, and finds others on the LAN. On SIGTERM or ctrl-C it unmounts what it
mounted and ends with exit code 0; the next start brings those mounts back, until
"flistnode umount". On SIGUSR2 it ends too, but leaves its mounts to the next
daemon: who uses them waits for that one, up to two minutes, and sees no error.
So a daemon is upgraded. Under systemd (Type=notify) it tells when it is ready.`,
		Example: `  flistnode daemon
  kill -USR2 $PID; flistnode daemon    # a newer daemon takes over from $PID
  flistnode daemon --data /srv/flistnode --listen /ip4/0.0.0.0/tcp/4101 --site attic
  flistnode daemon --peer /ip4/192.0.2.7/tcp/4101/p2p/12D3KooW... --swarm-key swarm.key`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.daemon(cmd.Context()) },
	}
}

func (a *app) daemon(ctx context.Context) error {
	paceCollector()
	ctx, stop := untilHandOver(ctx)
	defer stop()
	cfg := a.settings.node
	// By way of /proc, since the file may have been replaced by a newer one.
	cfg.KeepMounts, cfg.HoldCommand = true, []string{"/proc/self/exe", holdCommand}
	cfg.KeepCopies = true
	err := whileStarting(ctx, func() error { return a.daemonNode(ctx, cfg) }, func() bool { return !a.answered() })
	told := interrupted(ctx) && wasCanceled(err)
	if told || errors.Is(context.Cause(ctx), errHandOver) && (wasCanceled(err) || errors.Is(err, errHandOver)) {
		a.log.Info("daemon stopped", "why", context.Cause(ctx))
		return nil
	}
	return err
}

// daemonNode runs a node and its control socket until ctx ends.
func (a *app) daemonNode(ctx context.Context, cfg node.Config) error {
	return a.runNode(ctx, cfg, func(ctx context.Context, n *node.Node) error {
		l, err := api.Listen(a.settings.node.API)
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return api.Serve(ctx, l, api.Handler(n), a.log) })
		g.Go(func() error { return a.announceReady(ctx, n) })
		err = g.Wait()
		if errors.Is(context.Cause(ctx), errHandOver) {
			n.HandOver()
		}
		return err
	})
}

// answered reports whether somebody listens on the control socket.
func (a *app) answered() bool {
	c, err := api.Dial(a.settings.node.API)
	if err != nil {
		return false
	}
	_ = c.Close() // nothing was asked
	return true
}

var errHandOver = errors.New("SIGUSR2: mounts are left to the next daemon")

// untilHandOver returns a context that SIGUSR2 cancels, with errHandOver as
// its cause. The returned function stops the watching.
func untilHandOver(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	go func() {
		select {
		case <-signals:
			cancel(errHandOver)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// announceReady tells the log and systemd that the daemon answers.
func (a *app) announceReady(ctx context.Context, n *node.Node) error {
	id, err := n.ID(ctx)
	if err != nil {
		return fmt.Errorf("ask the node who it is: %w", err)
	}
	a.log.Info("daemon is ready", "peer", id.PeerID, "addrs", id.Addrs, "socket", a.settings.node.API, "data", a.settings.node.Data)
	if err := notifySystemd("READY=1"); err != nil {
		a.log.Warn("systemd could not be told", "err", err)
	}
	return nil
}

// notifySystemd sends state to the service manager, if there is one, as
// sd_notify(3) says.
func notifySystemd(state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("connect to NOTIFY_SOCKET: %w", err)
	}
	if _, err := conn.Write([]byte(state)); err != nil {
		_ = conn.Close()
		return fmt.Errorf("write to NOTIFY_SOCKET: %w", err)
	}
	return conn.Close()
}
