package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newLimits(a *app) *cobra.Command {
	var up, down rateValue
	cmd := &cobra.Command{
		Use:   "limits",
		Short: "Show or change how fast the daemon sends and takes chunks",
		Long: `Show how many bytes of chunks a second the daemon sends to peers and takes from them
at most, and change it with --upload-limit and --download-limit, until it ends. A
read that waits is never behind bulk: it has the whole rate for itself. The least
limit is 64 KiB a second.

With --json: one document with "upload" and "download" in bytes per second; 0 is
no limit.`,
		Example: `  flistnode limits
  flistnode limits --upload-limit 2MiB
  flistnode limits --upload-limit 0 --download-limit 0`,
		Args: wantArgs(0, 0),
	}
	f := cmd.Flags() // in place of the settings of the same names
	f.Var(&up, "upload-limit", "`BYTES` of chunks a second sent to peers at most, as in 10MiB; 0: no limit")
	f.Var(&down, "download-limit", "`BYTES` of chunks a second taken from peers at most; 0: no limit")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var req api.LimitsRequest
		if f.Changed("upload-limit") {
			req.Upload = (*int64)(&up)
		}
		if f.Changed("download-limit") {
			req.Download = (*int64)(&down)
		}
		return a.withDaemon(cmd.Context(), func(ctx context.Context, c *api.Client) error { return a.limits(ctx, c, req) })
	}
	return cmd
}

func (a *app) limits(ctx context.Context, c *api.Client, req api.LimitsRequest) error {
	var now api.Limits
	var err error
	if req == (api.LimitsRequest{}) {
		now, err = c.Limits(ctx)
	} else {
		now, err = c.SetLimits(ctx, req)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(now)
	}
	t := a.table()
	t.row("upload", rateText(now.Upload))
	t.row("download", rateText(now.Download))
	return t.flush()
}

func rateText(rate int64) string {
	if rate == 0 {
		return "no limit"
	}
	return fmt.Sprintf("%s a second", size(rate))
}
