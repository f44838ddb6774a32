package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/node"
	"github.com/flistnode/flistnode/node/api"
)

func newMount(a *app) *cobra.Command {
	var req api.MountRequest
	var ownerOnly bool
	cmd := &cobra.Command{
		Use:   "mount FLIST DIR",
		Short: "Mount an flist on a directory",
		Long: `Mount FLIST on the directory DIR, which must exist and be empty. The tree is there
at once; content is fetched when it is read, and verified before it is seen. A
chunk that nobody sends within --read-timeout makes the read fail (EIO).

With a daemon, mount returns when the mount is there, and the daemon keeps it, also
when it is killed and started again.
Without one, this process serves the mount, and other commands through the
control socket, until ctrl-C or "flistnode umount DIR".

With --rw the mount can be written to. What is written goes to a directory above the
image, which stays as it is: to a new one that is removed when the mount ends, or to
--upper DIR, which keeps it for the next mount (work files go to DIR.work). This
takes overlayfs, and root or a user namespace in which the node has been started.

Setuid bits, file capabilities and device nodes are shown, but have no effect
unless --suid and --dev are given.

What a workload touched at its start when FLIST was mounted before, here or by a
peer, is fetched ahead of its reads (--prefetch profile); "none" fetches only
what is read, "all" goes on with everything else. Reads come first.

With --json: one document with "dir", "flist", "since" and what else "flistnode
mounts" lists.`,
		Example: `  flistnode mount CID /mnt/image
  flistnode mount --rw --upper /srv/changes CID /mnt/image
  flistnode mount rootfs.flist /mnt/image --peer /ip4/192.0.2.7/tcp/4101/p2p/12D3KooW...`,
		Args:              wantArgs(2, 2),
		ValidArgsFunction: a.completeFList(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.AllowOther = os.Geteuid() == 0 && !ownerOnly
			if req.Upper != "" {
				abs, err := filepath.Abs(req.Upper)
				if err != nil {
					return fmt.Errorf("make path %s absolute: %w", quote(req.Upper), err)
				}
				req.Upper, req.ReadWrite = abs, true
			}
			if req.ReadWrite && ownerOnly {
				return usagef("--rw and --owner-only exclude each other: give the mount point's parent a mode instead")
			}
			return a.mount(cmd.Context(), args[0], args[1], req)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&req.NonEmpty, "nonempty", false, "mount even if DIR is not empty; what is in it is hidden")
	f.BoolVar(&req.ReadWrite, "rw", false, "let the mount be written to; changes are thrown away unless --upper is given")
	f.StringVar(&req.Upper, "upper", "", "`DIR` that keeps what is written; made if it does not exist; implies --rw")
	f.BoolVar(&req.SetUID, "suid", false, "let setuid bits and file capabilities have effect; only root may")
	f.BoolVar(&req.Devices, "dev", false, "let device nodes be opened; only root may")
	f.StringVar(&req.Name, "name", "", "`NAME` to list the flist by")
	req.Prefetch = api.PrefetchProfile
	f.Var(&choice{&req.Prefetch, []string{api.PrefetchNone, api.PrefetchProfile, api.PrefetchAll}}, "prefetch",
		"`WHAT` to fetch before it is read: none, profile, all")
	f.BoolVar(&ownerOnly, "owner-only", false, "let only the user of the node look into the mount, as it is without root")
	return cmd
}

func (a *app) mount(ctx context.Context, flist, dir string, req api.MountRequest) (err error) {
	if req.Dir, err = mountPoint(dir); err != nil {
		return err
	}
	served := false
	err = a.byDaemonOrNode(ctx, func(ctx context.Context, c *api.Client) error {
		_, err := a.mountBy(ctx, c, flist, req)
		return err
	}, func(ctx context.Context, n *node.Node, c *api.Client) error {
		served = true
		info, err := a.mountBy(ctx, c, flist, req)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "flistnode: serving %s until ctrl-C or \"flistnode umount\"\n", quote(info.Dir))
		return a.serveMount(ctx, n, c, info.Dir)
	})
	if served && interrupted(ctx) && wasCanceled(err) {
		return nil
	}
	return err
}

// mountPoint returns dir as the node needs it. What can be said about it here
// is said here, before a node is started or anything is fetched.
func mountPoint(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("make path %s absolute: %w", quote(dir), err)
	}
	st, err := os.Stat(abs)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", withHint(fmt.Errorf("mount point %s: %w", quote(abs), os.ErrNotExist), fmt.Sprintf("Make it with \"mkdir %s\".", quote(dir)))
	case err == nil && !st.IsDir():
		return "", usagef("mount point %s is not a directory", quote(abs))
	}
	// Other errors (a stale mount, say) are for the node, which can tell more.
	return abs, nil
}

// mountBy has the node of c mount an flist, and prints where it is.
func (a *app) mountBy(ctx context.Context, c *api.Client, arg string, req api.MountRequest) (api.MountInfo, error) {
	flist, err := flistCID(ctx, c, arg)
	if err != nil {
		return api.MountInfo{}, err
	}
	req.FList = flist
	info, err := c.Mount(ctx, req)
	if err != nil {
		return info, err
	}
	if a.json {
		return info, a.printJSON(info)
	}
	_, err = fmt.Fprintf(a.stdout, "%s on %s\n", info.FList, quote(info.Dir))
	return info, err
}

// mountPoll is how often a foreground mount looks whether it was unmounted.
const mountPoll = 500 * time.Millisecond

// serveMount serves the control socket until the mount at dir ends.
func (a *app) serveMount(ctx context.Context, n *node.Node, c *api.Client, dir string) error {
	ctx, stop := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	l, err := api.Listen(a.settings.node.API)
	if err != nil {
		a.log.Warn("other commands cannot reach this process", "err", err)
	} else {
		g.Go(func() error { return api.Serve(ctx, l, api.Handler(n), a.log) })
	}
	g.Go(func() error {
		defer stop()
		return waitUnmounted(ctx, c, dir)
	})
	return g.Wait()
}

// waitUnmounted returns when the node has no mount at dir any more.
func waitUnmounted(ctx context.Context, c *api.Client, dir string) error {
	tick := time.NewTicker(mountPoll)
	defer tick.Stop()
	for {
		mounts, err := c.Mounts(ctx)
		if err != nil {
			return err
		}
		here := false
		for _, m := range mounts {
			here = here || m.Dir == dir
		}
		if !here {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
