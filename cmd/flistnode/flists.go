package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newFLists(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "flists",
		Short: "List the flists this node holds on purpose",
		Long: `List the flists that were packed, fetched, mounted or read from a file on this node,
or replicated to it: CID, name, how each came here and when it was last asked for. The node announces
them and what it has of them.

With --json: one document, an array of {"cid", "name", "how", "time"}.`,
		Example: `  flistnode flists
  flistnode flists rm CID`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withNode(cmd.Context(), a.flists)
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "rm FLIST",
		Short: "Forget an flist",
		Long: `Forget FLIST: it is no longer listed and announced. Its chunks stay in the store,
and other nodes keep what they have.`,
		Example:           `  flistnode flists rm CID`,
		Args:              wantArgs(1, 1),
		ValidArgsFunction: a.completeFList(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, flist string) error {
				return c.Remove(ctx, flist)
			})
		},
	})
	return cmd
}

func (a *app) flists(ctx context.Context, c *api.Client) error {
	pins, err := c.FLists(ctx)
	if err != nil {
		return fmt.Errorf("list flists: %w", err)
	}
	if a.json {
		return a.printJSON(orEmpty(pins))
	}
	t := a.table("FLIST", "NAME", "HOW", "TIME")
	for _, p := range pins {
		t.row(p.CID, dash(p.Name), p.How, when(p.Time))
	}
	return t.flush()
}
