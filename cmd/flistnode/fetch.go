package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newFetch(a *app) *cobra.Command {
	var req api.FetchRequest
	cmd := &cobra.Command{
		Use:   "fetch FLIST",
		Short: "Bring every chunk of an flist to this node",
		Long: `Fetch every chunk of FLIST that is not here from whoever has it, so that it can be
mounted and unpacked without the network, and is served to others. What has
arrived stays: a fetch that was interrupted goes on where it stopped.

A chunk nobody has within --fetch-timeout makes it fail with exit code 3.

With --json: one document with "cid", "chunks", "new_chunks" and bytes;
"needless_bytes" came meanwhile and were not needed.`,
		Example: `  flistnode fetch CID
  flistnode fetch CID --metadata-only
  flistnode fetch CID --peer /ip4/192.0.2.7/tcp/4101/p2p/12D3KooW...`,
		Args:              wantArgs(1, 1),
		ValidArgsFunction: a.completeFList(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withFList(cmd.Context(), args[0], func(ctx context.Context, c *api.Client, flist string) error {
				req.FList = flist
				return a.fetch(ctx, c, req)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&req.MetadataOnly, "metadata-only", false, "fetch what a mount needs to show the tree, and no content")
	f.StringVar(&req.Name, "name", "", "`NAME` to list the flist by")
	return cmd
}

// fetchNote says how far a fetch is, how fast, from how many, and how long it
// will take at that speed.
func fetchNote(at api.FetchProgress, since time.Duration) string {
	note := fmt.Sprintf("%s of %s chunks, %s peers", count(at.Chunks), count(at.TotalChunks), count(at.Peers))
	if at.NewBytes == 0 || since < time.Second {
		return note
	}
	rate := float64(at.NewBytes) / since.Seconds()
	left := time.Duration(float64(at.TotalBytes-min(at.Bytes, at.TotalBytes)) / rate * float64(time.Second))
	return fmt.Sprintf("%s, %s/s, %s left", note, size(uint64(rate)), left.Round(time.Second))
}

func (a *app) fetch(ctx context.Context, c *api.Client, req api.FetchRequest) error {
	m := a.meter("fetching")
	start := time.Now()
	res, err := c.Fetch(ctx, req, func(at api.FetchProgress) {
		m.update(at.Bytes, at.TotalBytes, fetchNote(at, time.Since(start)))
	})
	m.done()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(res)
	}
	_, err = fmt.Fprintf(a.stdout, "%s chunks, %s; fetched %s, %s, in %s\n", count(res.Chunks), size(res.Bytes),
		count(res.NewChunks), size(res.NewBytes), seconds(res.Seconds))
	return err
}
