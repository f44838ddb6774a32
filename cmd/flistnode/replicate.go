package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newReplicate(a *app) *cobra.Command {
	req := api.ReplicateRequest{}
	var list, stop bool
	cmd := &cobra.Command{
		Use:   "replicate FLIST | --list",
		Short: "Keep copies of an flist at this site",
		Long: `Have --copies nodes of this site hold each chunk of FLIST. The daemon tells the
nodes of its site, and they see to it among themselves: each fetches its share,
behind all else, and when a node is gone for --replicate-grace the others make
the copies it held anew. Nothing is ever deleted for it. The wish holds, also
after restarts, until --stop on any node of the site.

The command shows how far it is until the copies are there. If there will be
too few as things are, since there are too few nodes, none takes more, a chunk
is nowhere, or no copy came for --fetch-timeout, it says why and ends with exit
code 6; the wish stays, and is fulfilled when it can be. Ctrl-C ends the command,
not the wish.

What a node keeps for others of its site is bounded by --replicate-max. It heeds
wishes of nodes it reaches over the LAN, or any of its site in a private network.

With --json: one document with "copies", "nodes", "chunks", "chunks_enough",
"chunks_fewer", "chunks_none" and "problem"; with --list an array of them.`,
		Example: `  flistnode replicate CID --copies 3
  flistnode replicate --list
  flistnode replicate --stop CID`,
		Args:              wantArgs(0, 1),
		ValidArgsFunction: a.completeFList(1),
	}
	f := cmd.Flags()
	f.IntVar(&req.Copies, "copies", 0, "`NUMBER` of nodes that are to hold each chunk, 1 to 64; default: as wished already, else 2")
	f.BoolVar(&req.NoWait, "no-wait", false, "return when the wish is noted, not when the copies are there")
	f.BoolVar(&list, "list", false, "list the wishes this node knows, its own and those of others, and how far each is")
	f.BoolVar(&stop, "stop", false, "take the wish for FLIST back, at the whole site; what is held stays")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		other := f.Changed("copies") || req.NoWait
		switch {
		case list && (stop || other || len(args) > 0):
			return usagef("replicate --list goes with nothing else")
		case stop && other:
			return usagef("replicate --stop goes with FLIST only")
		case !list && len(args) == 0:
			return usagef("replicate: too few arguments: want %q", cmd.CommandPath()+" FLIST")
		case f.Changed("copies") && req.Copies < 1 || req.Copies > api.MaxCopies:
			return usagef("--copies %d: want 1 to %d", req.Copies, api.MaxCopies)
		}
		return a.withDaemon(cmd.Context(), func(ctx context.Context, c *api.Client) error {
			if list {
				return a.replications(ctx, c)
			}
			flist, err := flistCID(ctx, c, args[0])
			if err != nil {
				return err
			}
			if stop {
				return c.StopReplicating(ctx, flist)
			}
			req.FList = flist
			return a.replicate(ctx, c, req)
		})
	}
	return cmd
}

func (a *app) replicate(ctx context.Context, c *api.Client, req api.ReplicateRequest) error {
	m := a.meter("replicating")
	res, err := c.Replicate(ctx, req, func(at api.Replication) {
		all := at.Bytes * uint64(at.Copies)
		m.update(uint64(float64(all)*float64(at.Made)/float64(at.Chunks*uint64(at.Copies))), all, replicationNote(at))
	})
	m.done()
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(res)
	} else {
		_, err = fmt.Fprintln(a.stdout, replicationNote(res))
	}
	if err == nil && !req.NoWait && !res.OK() {
		err = errDifferent
	}
	return err
}

// replicationNote says how far the copies of an flist are.
func replicationNote(r api.Replication) string {
	copies := count(r.Copies) + " copies"
	if r.Copies == 1 {
		copies = "1 copy"
	}
	note := "not yet known how many chunks have " + copies
	if r.Known {
		note = fmt.Sprintf("%s of %s chunks have %s", count(r.Enough), count(r.Chunks), copies)
		if !r.OK() {
			note += fmt.Sprintf(", %s have fewer, %s none", count(r.Fewer), count(r.None))
		}
		note += "; nodes: " + count(r.Nodes)
	}
	if r.Problem != "" {
		note += ": " + quote(r.Problem)
	}
	return note
}

func (a *app) replications(ctx context.Context, c *api.Client) error {
	all, err := c.Replications(ctx)
	if err != nil {
		return fmt.Errorf("list wishes for copies: %w", err)
	}
	if a.json {
		return a.printJSON(orEmpty(all))
	}
	t := a.table("FLIST", "NAME", "ASKED", "COPIES", "NODES", "CHUNKS", "ENOUGH", "FEWER", "NONE", "PROBLEM")
	for _, r := range all {
		asked := "elsewhere"
		if r.Here {
			asked = "here"
		}
		if !r.Known {
			t.row(r.CID, dash(r.Name), asked, count(r.Copies), "-", "-", "-", "-", "-", dash(r.Problem))
			continue
		}
		t.row(r.CID, dash(r.Name), asked, count(r.Copies), count(r.Nodes), count(r.Chunks), count(r.Enough), count(r.Fewer), count(r.None), dash(r.Problem))
	}
	return t.flush()
}
