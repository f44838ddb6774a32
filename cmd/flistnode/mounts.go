package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newMounts(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "mounts",
		Short: "List what the daemon has mounted",
		Long: `List what the daemon has mounted: directory, flist, name, whether it is writable,
since when, how much was read, how often a chunk was found in memory (CACHE), on
disk (STORE) or had to come from a peer, how many reads failed, and the slowest
read. Below the table stand mounts that could not be brought back after a start of
the daemon, and why, and the slowest reads if -v is given.

With --json: one document, an array of {"dir", "flist", "name", "since", "chunks",
"slowest_reads", ...}.`,
		Example: `  flistnode mounts
  flistnode mounts --json | jq '.[].slowest_reads'`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDaemon(cmd.Context(), a.mounts)
		},
	}
}

func (a *app) mounts(ctx context.Context, c *api.Client) error {
	mounts, err := c.Mounts(ctx)
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	if a.json {
		return a.printJSON(orEmpty(mounts))
	}
	t := a.table("DIR", "FLIST", "NAME", "MODE", "SINCE", "READ", "CACHE", "STORE", "PEERS", "FAILED", "SLOWEST")
	for _, m := range mounts {
		t.row(quote(m.Dir), m.FList, dash(m.Name), mountMode(m), when(m.Since), size(m.BytesRead), portion(m.Chunks.Cache, m),
			portion(m.Chunks.Store, m), portion(m.Chunks.Peers, m), count(m.ReadErrors), slowest(m))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, m := range mounts {
		if m.Problem != "" {
			fmt.Fprintf(a.stdout, "%s is not mounted: %s\n", quote(m.Dir), m.Problem)
		}
		if a.verbose == 0 {
			continue
		}
		for _, r := range m.Slowest {
			fmt.Fprintf(a.stdout, "%s%s at %d: %s, %s%s\n", quote(m.Dir), quote(r.Path), r.Offset, millis(r.Millis), when(r.At), failedRead(r))
		}
	}
	return nil
}

// mountMode says how a mount is there.
func mountMode(m api.MountInfo) string {
	var mode []string
	switch {
	case m.Upper != "":
		mode = append(mode, "rw "+quote(m.Upper))
	case m.ReadWrite:
		mode = append(mode, "rw")
	default:
		mode = append(mode, "ro")
	}
	if m.Problem != "" {
		mode = append(mode, "not mounted")
	}
	if m.Detached {
		mode = append(mode, "detached")
	}
	return strings.Join(mode, ", ")
}

// portion returns part of all chunks a mount has asked for.
func portion(part uint64, m api.MountInfo) string {
	if all := m.Chunks.Cache + m.Chunks.Store + m.Chunks.Peers; all > 0 {
		return share(part, all)
	}
	return "-"
}

func slowest(m api.MountInfo) string {
	if len(m.Slowest) == 0 {
		return "-"
	}
	return millis(m.Slowest[0].Millis)
}

func millis(ms float64) string {
	return time.Duration(ms * float64(time.Millisecond)).Round(10 * time.Microsecond).String()
}

func failedRead(r api.SlowRead) string {
	if r.Failed {
		return ", failed"
	}
	return ""
}
