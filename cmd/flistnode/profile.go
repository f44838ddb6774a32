package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newProfile(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Record, show and drop the order in which an flist is first read",
		Long: `A profile is the order in which a workload first touched the chunks of an flist.
Every mount records one by itself until the workload is quiet; the next mount of
the flist, on this node or on one that asks it, fetches in that order before the
workload asks. A profile decides nothing but order.`,
		Example: "  flistnode profile show CID",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range []struct {
		use, short, long, example string
		do                        func(context.Context, *api.Client, string) error
	}{
		{"record FLIST", "Make what was read so far the profile of FLIST",
			`Make what the present mounts of FLIST on this node have read so far its profile,
in place of the one that is there.

With --json: one document with "flist", "chunks" (indexes in the flist's table),
"bytes" and "packed_bytes".`,
			"  flistnode profile record CID",
			func(ctx context.Context, c *api.Client, flist string) error {
				p, err := c.RecordProfile(ctx, flist)
				return a.printProfile(p, err)
			}},
		{"show FLIST", "Show the profile that was recorded of FLIST",
			`Show how much the profile recorded on this node covers. The exit code is 3 if
there is none.

With --json: one document with "flist", "chunks" (indexes in the flist's table),
"bytes" and "packed_bytes".`,
			"  flistnode profile show CID",
			func(ctx context.Context, c *api.Client, flist string) error {
				p, err := c.Profile(ctx, flist)
				return a.printProfile(p, err)
			}},
		{"drop FLIST", "Forget the profile that was recorded of FLIST",
			`Forget the profile recorded on this node, so that the next mount of FLIST records
it anew. Without one it does nothing.`,
			"  flistnode profile drop CID",
			func(ctx context.Context, c *api.Client, flist string) error { return c.DropProfile(ctx, flist) }},
	} {
		cmd.AddCommand(&cobra.Command{
			Use: c.use, Short: c.short, Long: c.long, Example: c.example,
			Args:              wantArgs(1, 1),
			ValidArgsFunction: a.completeFList(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.withFList(cmd.Context(), args[0], func(ctx context.Context, client *api.Client, flist string) error {
					return c.do(ctx, client, flist)
				})
			},
		})
	}
	return cmd
}

func (a *app) printProfile(p api.ProfileInfo, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(p)
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %s chunks, %s, %s compressed here\n",
		p.FList, count(uint64(len(p.Chunks))), size(p.Bytes), size(p.PackedBytes))
	return err
}
