package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FLIST",
		Short: "Show what is in an flist, where its bytes go, and how much is here",
		Long: `Show the totals of FLIST, its annotations, the sections of its metadata with their
plain and packed sizes, and how many of its chunks are on this node. Only
metadata is fetched.

With --json: one document.`,
		Example:           `  flistnode inspect CID`,
		Args:              wantArgs(1, 1),
		ValidArgsFunction: a.completeFList(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withFList(cmd.Context(), args[0], a.inspect)
		},
	}
}

func (a *app) inspect(ctx context.Context, c *api.Client, flist string) error {
	in, err := c.Inspect(ctx, flist)
	if err != nil {
		return fmt.Errorf("inspect %s: %w", flist, err)
	}
	if a.json {
		return a.printJSON(in)
	}
	t := a.table()
	t.row("flist", in.CID)
	t.row("format", fmt.Sprintf("version %d", in.FormatVersion))
	t.row("entries", fmt.Sprintf("%s, %s inodes", count(in.Entries), count(in.Inodes)))
	for _, kind := range slices.Sorted(maps.Keys(in.Types)) {
		t.row("  "+kind, count(in.Types[kind]))
	}
	t.row("content", fmt.Sprintf("%s in files, %s in %s chunks", size(in.Bytes), size(in.DataBytes), count(in.DataChunks)))
	t.row("  here", fmt.Sprintf("%s (%s) in %s chunks, %s on disk", size(in.DataBytesHere), share(in.DataBytesHere, in.DataBytes),
		count(in.DataChunksHere), size(in.DataPackedBytes)))
	t.row("metadata", fmt.Sprintf("%s in %s chunks, %s packed", size(in.MetadataBytes), count(in.MetadataChunks), size(in.MetadataPacked)))
	for _, key := range slices.Sorted(maps.Keys(in.Annotations)) {
		t.row("annotation "+quote(key), quote(in.Annotations[key]))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	t = a.table("SECTION", "CHUNKS", "HERE", "PLAIN", "PACKED")
	for _, s := range in.Sections {
		t.row(quote(s.Name), count(s.Chunks), count(s.ChunksHere), size(s.Bytes), size(s.PackedBytes))
	}
	return t.flush()
}
