package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newUnpack(a *app) *cobra.Command {
	var req api.UnpackRequest
	cmd := &cobra.Command{
		Use:   "unpack FLIST DIR",
		Short: "Write the tree of an flist into a directory",
		Long: `Write the tree of FLIST into DIR, which is made if it does not exist and must be
empty otherwise. Content that is not here is fetched. Nothing is ever written
outside DIR.

Without root, owners, devices and some attributes cannot be restored: what could
not is listed on stderr, and the exit code stays 0.

With --json: one document with "cid", the counts and "not_restored".`,
		Example:           `  flistnode unpack CID ./rootfs`,
		Args:              wantArgs(2, 2),
		ValidArgsFunction: a.completeFList(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[1])
			if err != nil {
				return fmt.Errorf("make path %s absolute: %w", quote(args[1]), err)
			}
			if req.Workers < 0 {
				return usagef("--workers %d: want 0 or more", req.Workers)
			}
			req.Dir = dir
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, flist string) error {
				req.FList = flist
				return a.unpack(ctx, c, req)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&req.Overwrite, "overwrite", false, "write into a directory that is not empty, over what is there")
	f.IntVar(&req.Workers, "workers", 0, "`NUMBER` of files written at once; 0 for what suits the cores")
	return cmd
}

func (a *app) unpack(ctx context.Context, c *api.Client, req api.UnpackRequest) error {
	m := a.meter("unpacking")
	res, err := c.Unpack(ctx, req, func(at api.UnpackProgress) {
		m.update(at.Bytes, at.TotalBytes, fmt.Sprintf("%s of %s entries", count(at.Entries), count(at.TotalEntries)))
	})
	m.done()
	if api.CodeOf(err) == api.Exists && !req.Overwrite {
		return withHint(err, "Choose another, or write over what is there with --overwrite.")
	}
	if err != nil {
		return err
	}
	a.problems("not restored", res.NotRestored)
	if a.json {
		return a.printJSON(res)
	}
	_, err = fmt.Fprintf(a.stdout, "%s entries, %s, in %s\n", count(res.Entries), size(res.Bytes), seconds(res.Seconds))
	return err
}
