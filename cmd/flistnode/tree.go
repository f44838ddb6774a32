package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newTree(a *app) *cobra.Command {
	var digest bool
	cmd := &cobra.Command{
		Use:   "tree FLIST [PATH]",
		Short: "Show the tree of an flist",
		Long: `Show the tree below PATH of FLIST (its root, if there is no PATH), indented by
depth, with sizes, symlink targets and device numbers. Only metadata is fetched.
Names are quoted as by "flistnode ls".

With --json: one line per entry, as by "flistnode ls --json -R".`,
		Example: `  flistnode tree CID etc
  flistnode tree --digest CID`,
		Args:              wantArgs(1, 2),
		ValidArgsFunction: a.completeFList(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, flist string) error {
				return a.tree(ctx, c, flist, imagePath(args), digest)
			})
		},
	}
	cmd.Flags().BoolVar(&digest, "digest", false, "show the SHA-256 of each file; fetches that part of the metadata")
	return cmd
}

func (a *app) tree(ctx context.Context, c *api.Client, flist, path string, digest bool) error {
	top := strings.Count(strings.Trim(path, "/"), "/")
	if strings.Trim(path, "/") != "" {
		top++
	}
	human := func(w io.Writer, e api.Entry) error {
		depth := strings.Count(e.Path, "/") - 1 - top
		if e.Path == "/" {
			depth = -1 - top
		}
		note := ""
		switch e.Type {
		case api.TypeDir:
			note = "/"
		case api.TypeFile:
			note = fmt.Sprintf("  (%s)", size(e.Size))
		case api.TypeChar, api.TypeBlock:
			note = fmt.Sprintf("  (%s %s)", e.Type, sizeOrDevice(e))
		case api.TypeFIFO, api.TypeSocket:
			note = fmt.Sprintf("  (%s)", e.Type)
		}
		if e.Digest != "" {
			note += "  sha256:" + e.Digest
		}
		_, err := fmt.Fprintf(w, "%s%s%s\n", strings.Repeat("  ", max(depth, 0)), nameAndTarget(baseName(e.Path), e), note)
		return err
	}
	opts := api.ListOptions{Recursive: true, Digests: digest}
	err := lines(a, human, func(print func(api.Entry) error) error {
		return c.List(ctx, flist, path, opts, print)
	})
	if err != nil {
		return fmt.Errorf("show the tree %s of %s: %w", quote(path), flist, err)
	}
	return nil
}
