package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/mount"
	"github.com/flistnode/flistnode/node/api"
)

func newServeVirtiofs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve-virtiofs FLIST SOCKET",
		Short: "Serve an flist to a virtual machine as virtiofs",
		Long: `Serve FLIST to a virtual machine as a virtiofs device, without a mount on this
machine: QEMU, cloud-hypervisor and others connect to SOCKET and speak vhost-user.
The machine must share its memory (memory-backend-memfd,share=on), and mounts the
device read-only by its tag, also as its root file system
(rootfstype=virtiofs root=TAG ro).

Chunks come from the daemon, if one runs, else from a node of this process. It
serves one machine after the other until ctrl-C. Whoever may open SOCKET can read
the whole image.`,
		Example: `  flistnode serve-virtiofs CID /run/vm1.sock
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on \\
    -numa node,memdev=mem -chardev socket,id=fs,path=/run/vm1.sock \\
    -device vhost-user-fs-pci,chardev=fs,tag=image ...`,
		Args:              wantArgs(2, 2),
		ValidArgsFunction: a.completeFList(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withNode(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return a.serveVirtiofs(ctx, c, args[0], args[1])
			})
		},
	}
}

func (a *app) serveVirtiofs(ctx context.Context, c *api.Client, arg, socket string) error {
	socket, err := filepath.Abs(socket)
	if err != nil {
		return fmt.Errorf("make path %s absolute: %w", quote(socket), err)
	}
	if len(socket) > maxSocketPath {
		return usagef("path of the socket is longer than %d bytes: %s", maxSocketPath, quote(socket))
	}
	name, err := flistCID(ctx, c, arg)
	if err != nil {
		return err
	}
	root, err := flist.ParseCID(name)
	if err != nil {
		return err
	}
	src := chunksOf{c, name}
	im, err := flist.Load(ctx, src, root)
	if err != nil {
		return fmt.Errorf("load flist %s: %w", name, err)
	}
	defer im.Close()
	slog.SetDefault(a.log) // for go-fuse
	fmt.Fprintf(a.stderr, "flistnode: serving %s on %s until ctrl-C\n", name, quote(socket))
	return mount.ServeVirtiofs(ctx, im, src, socket, mount.Options{ReadTimeout: a.settings.node.ReadTimeout, Log: a.log})
}

// chunksOf is a chunk.Source over a node's control interface.
type chunksOf struct {
	c     *api.Client
	flist string
}

var _ chunk.Source = chunksOf{}

// Get implements chunk.Source.
func (s chunksOf) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	return s.c.Chunk(ctx, s.flist, id)
}
