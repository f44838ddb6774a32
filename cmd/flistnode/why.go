package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newWhy(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "why CHUNK|FLIST:PATH",
		Short: "Show who has a chunk, who was asked for it, and what each answered",
		Long: `Show for a chunk, or for each chunk of the file PATH of FLIST (64 at most), whether it
is here, which peers of its flist's swarm say that they hold it, who announced it,
and which peers this node asked for it lately, with the answer of each. Nobody is
asked for the chunk; providers are looked up for up to 10 s.

With --json: one document with "chunks", an array in the order of the file.`,
		Example: `  flistnode why bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am
  flistnode why CID:/usr/bin/ping`,
		Args: wantArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			flist, path, ok := strings.Cut(args[0], ":")
			if !ok {
				return a.withNode(cmd.Context(), func(ctx context.Context, c *api.Client) error {
					return a.why(ctx, c, api.WhyRequest{Chunk: args[0]})
				})
			}
			return a.withFList(cmd.Context(), flist, func(ctx context.Context, c *api.Client, flist string) error {
				return a.why(ctx, c, api.WhyRequest{FList: flist, Path: path})
			})
		},
	}
}

func (a *app) why(ctx context.Context, c *api.Client, req api.WhyRequest) error {
	res, err := c.Why(ctx, req)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(res)
	}
	t := a.table()
	if req.FList != "" {
		t.row("flist announced by", list(res.FListProviders))
	}
	for _, ch := range res.Chunks {
		whyRows(t, ch)
	}
	if res.Left > 0 {
		t.row("and", count(res.Left)+" more chunks")
	}
	return t.flush()
}

func whyRows(t *table, ch api.WhyChunk) {
	title := ch.CID
	if ch.Bytes > 0 {
		title += ", " + size(ch.Bytes)
	}
	t.row("chunk", title)
	here := "no"
	switch {
	case ch.Here:
		here = "yes"
	case ch.Fetching:
		here = "no, it is being fetched"
	}
	t.row("  here", here)
	var holds []string
	lacks := 0
	for _, m := range ch.Members {
		switch {
		case !m.Holds:
			lacks++
		case m.OwnSite:
			holds = append(holds, m.Peer+" (own site)")
		default:
			holds = append(holds, m.Peer)
		}
	}
	t.row("  held by", list(holds))
	if lacks > 0 {
		t.row("  not held by", count(lacks)+" others that share its flist")
	}
	t.row("  announced by", list(ch.Providers))
	if len(ch.Asked) == 0 {
		t.row("  asked", "nobody lately")
	}
	for i, q := range ch.Asked {
		label := "  asked"
		if i > 0 {
			label = ""
		}
		t.row(label, fmt.Sprintf("%s %s (%s), after %s: %s", when(q.Time), q.Peer, q.Class, q.Took.Round(10*time.Microsecond), quote(q.Answer)))
	}
}

// list shows names, or that there are none.
func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, " ")
}
