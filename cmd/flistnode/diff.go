package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newDiff(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Show what differs between two flists",
		Long: `Show what differs from flist A to flist B, one line per path in order: "+" it is
only in B, "-" only in A, "~" in both and different, with what is different.
Contents are compared by SHA-256; only metadata is fetched.

The exit code is 0 if nothing differs and 6 if something does.

With --json: one line per difference, {"kind", "what", "old", "new"}, where kind is
"added", "removed" or "changed", and old and new are entries as of "ls --json".`,
		Example: `  flistnode diff CID1 CID2
  flistnode diff old.flist new.flist --json`,
		Args:              wantArgs(2, 2),
		ValidArgsFunction: a.completeFList(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, from string) error {
				to, err := flistCID(ctx, c, args[1])
				if err != nil {
					return err
				}
				return a.diff(ctx, c, from, to)
			})
		},
	}
}

func (a *app) diff(ctx context.Context, c *api.Client, from, to string) error {
	signs := map[string]string{api.Added: "+", api.Removed: "-", api.Changed: "~"}
	human := func(w io.Writer, ch api.Change) error {
		what := ""
		if len(ch.What) > 0 {
			what = "  (" + strings.Join(ch.What, ", ") + ")"
		}
		_, err := fmt.Fprintf(w, "%s %s%s\n", signs[ch.Kind], quote(ch.Path()), what)
		return err
	}
	differs := false
	err := lines(a, human, func(print func(api.Change) error) error {
		return c.Diff(ctx, from, to, func(ch api.Change) error {
			differs = true
			return print(ch)
		})
	})
	if err != nil {
		return fmt.Errorf("compare %s and %s: %w", from, to, err)
	}
	if differs {
		return errDifferent
	}
	return nil
}
