package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/node/api"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the node is",
		Long: `Show the node's identity, store, cache, traffic with peers, announcements, flists
and mounts. Without a daemon it is the state of the store as a node of this
process finds it.

With --json: one document.`,
		Example: `  flistnode status
  flistnode status --json | jq .net`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withNode(cmd.Context(), a.status)
		},
	}
}

func (a *app) status(ctx context.Context, c *api.Client) error {
	s, err := c.Status(ctx)
	if err != nil {
		return fmt.Errorf("ask for the status: %w", err)
	}
	if a.json {
		return a.printJSON(s)
	}
	t := a.table()
	t.row("node", s.PeerID)
	t.row("version", s.Version)
	if s.Site != "" {
		t.row("site", quote(s.Site))
	}
	t.row("running since", when(s.Started))
	t.row("data", quote(s.Data))
	for i, addr := range s.Addrs {
		label := "listens on"
		if i > 0 {
			label = ""
		}
		t.row(label, addr)
	}
	t.row("peers", count(s.Peers))
	for _, p := range s.Unreached {
		t.row("cannot reach", p.ID+": "+quote(p.Error))
	}
	t.row("store", fmt.Sprintf("%s chunks, %s; %s on disk, %s free", count(s.Store.Chunks), size(s.Store.Bytes),
		size(s.Store.DiskBytes), size(s.Store.FreeBytes)))
	t.row("cache", fmt.Sprintf("%s of %s, %s hits, %s misses", size(s.Cache.Bytes), size(s.Cache.MaxBytes),
		count(s.Cache.Hits), count(s.Cache.Misses)))
	t.row("from own site", size(s.Net.BytesSite))
	t.row("from other sites", size(s.Net.BytesOther))
	t.row("from peers", fmt.Sprintf("%s chunks, %s, %s not needed, %s failures", count(s.Net.ChunksFetched), size(s.Net.BytesReceived),
		size(s.Net.BytesNeedless), count(s.Net.Failures)))
	t.row("to peers", fmt.Sprintf("%s chunks, %s", count(s.Net.ChunksServed), size(s.Net.BytesSent)))
	t.row("announced", announced(s.Announce))
	t.row("flists", count(len(s.FLists)))
	for i, r := range s.Replications {
		label := "replicates"
		if i > 0 {
			label = ""
		}
		t.row(label, r.CID+": "+replicationNote(r))
	}
	t.row("mounts", count(len(s.Mounts)))
	return t.flush()
}

// announced says what is announced, what waits, and by which mode.
func announced(s api.AnnounceStatus) string {
	text := fmt.Sprintf("%s flists, %s chunks, %s waiting", count(s.Roots), count(s.Chunks), count(s.Pending))
	if s.Oldest != nil {
		text += fmt.Sprintf(", all since %s", when(*s.Oldest))
	}
	mode := s.Mode
	if s.Setting != s.Mode {
		mode += ", by " + s.Setting
	}
	return fmt.Sprintf("%s (%s)", text, mode)
}

func newPeers(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "peers",
		Short: "List the peers the daemon is connected to",
		Long: `List the peers the daemon is connected to, with round trip time, what was received
from each and sent to it, the address in use, and what each did that it should
not, counted since the daemon started:

  malformed, oversized  frames the protocol does not allow: it was cut off
  wants, streams, talk  more requests, streams or messages than a peer may have
  forged                it claimed chunks it does not have
  corrupt               it sent wrong bytes
  stalled               it owed an answer, or was to take one, and did nothing

Peers that did such things and are no longer connected are listed for an hour,
with "gone" for the direction.

With --json: one document, an array.`,
		Example: `  flistnode peers
  flistnode peers --json | jq '.[] | select(.offences)'`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDaemon(cmd.Context(), a.peers)
		},
	}
}

func (a *app) peers(ctx context.Context, c *api.Client) error {
	peers, err := c.Peers(ctx)
	if err != nil {
		return fmt.Errorf("list peers: %w", err)
	}
	if a.json {
		return a.printJSON(orEmpty(peers))
	}
	t := a.table("PEER", "SITE", "DIR", "RTT", "RECEIVED", "SENT", "ADDRESS", "OFFENCES", "REMARK")
	for _, p := range peers {
		rtt := "-"
		if p.Latency > 0 {
			rtt = p.Latency.Round(10 * time.Microsecond).String()
		}
		t.row(p.ID, dash(p.Site), p.Direction, rtt, size(p.BytesReceived), size(p.BytesSent), dash(strings.Join(p.Addrs, " ")), offences(p), remark(p))
	}
	return t.flush()
}

// offences lists what a peer did that it should not.
func offences(p api.Peer) string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(p.Offences)) {
		parts = append(parts, kind+" "+count(p.Offences[kind]))
	}
	return dash(strings.Join(parts, ", "))
}

// remark says what is wrong with a peer.
func remark(p api.Peer) string {
	if p.AvoidedUntil == nil {
		return "-"
	}
	return fmt.Sprintf("avoided until %s: %s", when(*p.AvoidedUntil), quote(p.Reason))
}

func newID(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "id",
		Short: "Print who this node is and where it listens",
		Long: `Print the node's peer ID on the first line and its addresses on the following ones;
each address ends in the peer ID and can be given to another node as --peer.
Without a daemon there are no lasting addresses, and only the ID is printed.

With --json: one document with "peer_id", "addrs", "version" and "site".`,
		Example: `  flistnode id
  flistnode daemon --peer "$(ssh other flistnode id | tail -1)"`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.id(cmd.Context()) },
	}
}

func (a *app) id(ctx context.Context) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	if c == nil {
		return a.withNode(ctx, func(ctx context.Context, c *api.Client) error { return a.printID(ctx, c, false) })
	}
	return errors.Join(a.printID(ctx, c, true), c.Close())
}

func (a *app) printID(ctx context.Context, c *api.Client, daemon bool) error {
	id, err := c.ID(ctx)
	if err != nil {
		return fmt.Errorf("ask the node who it is: %w", err)
	}
	if !daemon {
		id.Addrs = nil
	}
	if a.json {
		id.Addrs = orEmpty(id.Addrs)
		return a.printJSON(id)
	}
	_, err = fmt.Fprintln(a.stdout, strings.Join(append([]string{id.PeerID}, id.Addrs...), "\n"))
	return err
}
