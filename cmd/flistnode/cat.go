package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newCat(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cat FLIST PATH",
		Short: "Print the content of a file of an flist",
		Long: `Print the content of the regular file PATH of FLIST on stdout. Chunks that are not
here are fetched; every byte is verified before it is printed. Symlinks are not
followed. There is no --json: the output is the file.`,
		Example:           `  flistnode cat CID etc/os-release`,
		Args:              wantArgs(2, 2),
		ValidArgsFunction: a.completeFList(1),
		PreRunE: func(*cobra.Command, []string) error {
			if a.json {
				return usagef("cat prints the file as it is: --json makes no sense")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, flist string) error {
				if err := c.Cat(ctx, flist, args[1], a.stdout); err != nil {
					return fmt.Errorf("read %s in %s: %w", quote(args[1]), flist, err)
				}
				return nil
			})
		},
	}
}
