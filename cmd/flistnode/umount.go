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
code 5; with --force it is taken out of the tree at once and ends when its last
user is gone.

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
	cmd.Flags().BoolVar(&force, "force", false, "detach the mount even if it is in use")
	return cmd
}

func newMounts(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "mounts",
		Short: "List what the daemon has mounted",
		Long: `List what the daemon has mounted: directory, flist, name, since when, how much was
read and how many reads failed.

With --json: one document, an array of {"dir", "flist", "name", "since", ...}.`,
		Example: `  flistnode mounts`,
		Args:    wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDaemon(cmd.Context(), a.mounts)
		},
	}
}

func (a *app) mounts(ctx context.Context, c *api.Client) error {
	mounts, err := c.Mounts(ctx)
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	if a.json {
		return a.printJSON(orEmpty(mounts))
	}
	t := a.table("DIR", "FLIST", "NAME", "SINCE", "READ", "FAILED READS")
	for _, m := range mounts {
		t.row(quote(m.Dir), m.FList, dash(m.Name), when(m.Since), size(m.BytesRead), count(m.ReadErrors))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, m := range mounts {
		if m.Problem != "" {
			fmt.Fprintf(a.stdout, "%s is not mounted: %s\n", quote(m.Dir), m.Problem)
		}
	}
	return nil
}
