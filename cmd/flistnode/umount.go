package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newUmount(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "umount DIR",
		Aliases: []string{"unmount"},
		Short:   "End a mount",
		Long: `End the mount at DIR. A mount that is in use stays, and umount fails with exit
code 5 and the names of its users; with --lazy it is taken out of the tree at once and ends when its last
user is gone.

A daemon brings its mounts back when it is started again, until they are
unmounted. What was written to a writable mount is gone with it unless it was
mounted with --upper.

A mount left behind by a node that was killed is cleared away too, with or
without a daemon.`,
		Example: `  flistnode umount /mnt/image`,
		Args:    wantArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("make path %s absolute: %w", quote(args[0]), err)
			}
			return a.withNode(cmd.Context(), func(ctx context.Context, c *api.Client) error {
				return c.Unmount(ctx, dir, force)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "lazy", false, "detach the mount even if it is in use")
	cmd.Flags().BoolVar(&force, "force", false, "the same as --lazy")
	return cmd
}
