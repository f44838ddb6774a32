package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/flistnode/flistnode/p2p/swarm"
)

// Status implements api.Reporter.
func (n *Node) Status(ctx context.Context) (api.Status, error) {
	s := api.Status{
		Version: n.cfg.Version, PeerID: n.host.ID().String(), Addrs: n.addrs(), Site: n.cfg.Site,
		Started: n.started.UTC(), Data: n.cfg.Data, Peers: len(n.host.Peers()), Cache: n.cache.status(),
	}
	var err error
	if s.FLists, err = n.FLists(ctx); err != nil {
		return s, err
	}
	if s.Mounts, err = n.Mounts(ctx); err != nil {
		return s, err
	}
	if s.Store, err = n.storeStatus(ctx); err != nil {
		return s, err
	}
	announced, err := n.host.AnnounceStats(ctx)
	if err != nil {
		return s, err
	}
	s.Announce = api.AnnounceStatus{
		Setting: n.cfg.Announce, Mode: n.announcer.inForce(),
		Roots: uint64(announced.Roots), Chunks: uint64(announced.Keys), Pending: uint64(announced.Backlog + announced.Pending),
		RecordsSent: announced.Messages, BytesSent: announced.Bytes,
	}
	if announced.Online && announced.Keys > 0 && !announced.Oldest.IsZero() {
		oldest := announced.Oldest.UTC()
		s.Announce.Oldest = &oldest
	}
	if s.Replications, err = n.Replications(ctx); err != nil {
		return s, err
	}
	s.Net = n.netStatus()
	for _, p := range n.unreached() {
		s.Unreached = append(s.Unreached, api.UnreachedPeer{ID: p.Peer.String(), Error: p.Answer})
	}
	return s, nil
}

// maxDialError bounds what is told of a failed dial, in bytes.
const maxDialError = 300

// unreached returns the peers to begin with that cannot be reached, and why.
func (n *Node) unreached() (out []swarm.AskedPeer) {
	for _, p := range n.host.Unreached() {
		out = append(out, swarm.AskedPeer{Peer: p.ID, Answer: dialError(p.Err)})
	}
	return out
}

// dialError says why a peer cannot be reached, in one line.
func dialError(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ") // it has lines
	// What nodes with different keys read from each other is noise, which
	// fails in many ways. libp2p has no error of a type for that.
	var other sec.ErrPeerIDMismatch
	if strings.Contains(text, "failed to negotiate security protocol") && !errors.As(err, &other) {
		text = "have both nodes the same swarm key, or none? " + text
	}
	if len(text) > maxDialError {
		text = text[:maxDialError] + "..."
	}
	return text
}

func (n *Node) storeStatus(ctx context.Context) (api.StoreStatus, error) {
	st, err := n.store.Stats(ctx)
	if err != nil {
		return api.StoreStatus{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(n.store.Dir(), &fs); err != nil {
		return api.StoreStatus{}, fmt.Errorf("free space of %s: %w", n.store.Dir(), err)
	}
	return api.StoreStatus{Chunks: uint64(st.Chunks), Bytes: uint64(st.PackedBytes), DiskBytes: uint64(st.DiskBytes),
		FreeBytes: fs.Bavail * uint64(fs.Bsize)}, nil
}

func (n *Node) netStatus() api.NetStatus {
	got := n.swarm.Stats()
	gave, _ := n.server.Stats()
	s := api.NetStatus{ChunksFetched: got.Chunks, BytesReceived: got.BytesReceived, ChunksServed: gave.Chunks, BytesSent: gave.BytesSent}
	s.BytesSite, s.Hedged = got.BytesSite, got.Hedged
	s.BytesNeedless = got.BytesNeedless + n.client.Discarded()
	s.BytesOther = got.BytesReceived - min(got.BytesSite, got.BytesReceived)
	for _, p := range got.Peers {
		s.Failures += p.Failures
	}
	return s
}

// Peers implements api.Reporter.
func (n *Node) Peers(context.Context) ([]api.Peer, error) {
	got := n.swarm.Stats()
	_, gave := n.server.Stats()
	byID := make(map[string]swarm.PeerStats, len(got.Peers))
	for _, p := range got.Peers {
		byID[p.ID.String()] = p
	}
	peers, offenders := []api.Peer{}, n.offences.All()
	for _, p := range n.host.Peers() {
		stats, served := byID[p.ID.String()], gave[p.ID]
		out := api.Peer{
			ID: p.ID.String(), Agent: p.Agent, Direction: "in", Latency: p.Latency,
			ChunksReceived: stats.Chunks, BytesReceived: stats.BytesReceived, ChunksSent: served.Chunks, BytesSent: served.BytesSent,
		}
		out.Site, out.Failures, out.Reason = stats.Site, stats.Failures, stats.Reason
		if until := stats.QuarantinedUntil; !until.IsZero() {
			out.AvoidedUntil = &until
		}
		if p.Direction == "outbound" {
			out.Direction = "out"
		}
		for _, a := range p.Addrs {
			out.Addrs = append(out.Addrs, a.String())
		}
		out.Offences = offences(offenders[p.ID])
		delete(offenders, p.ID)
		peers = append(peers, out)
	}
	return append(peers, n.gone(offenders, byID)...), nil
}

// showGone is how long a peer that is no longer connected is shown for what it
// did.
const showGone = time.Hour

// gone returns the offenders that are not connected, cut off perhaps.
func (n *Node) gone(offenders map[peer.ID]offence.Record, stats map[string]swarm.PeerStats) (out []api.Peer) {
	for id, did := range offenders {
		if time.Since(did.Last) > showGone {
			continue
		}
		p := api.Peer{ID: id.String(), Addrs: []string{}, Direction: api.NotConnected, Offences: offences(did)}
		st := stats[p.ID]
		p.Site, p.Failures, p.Reason = st.Site, st.Failures, st.Reason
		p.ChunksReceived, p.BytesReceived, p.BytesSent = st.Chunks, st.BytesReceived, st.BytesSent
		if until := st.QuarantinedUntil; !until.IsZero() {
			p.AvoidedUntil = &until
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b api.Peer) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// offences counts what a peer did, by kind; nil if nothing.
func offences(r offence.Record) map[string]uint64 {
	if len(r.Counts) == 0 {
		return nil
	}
	out := make(map[string]uint64, len(r.Counts))
	for k, n := range r.Counts {
		out[string(k)] = n
	}
	return out
}

// ID implements api.Reporter.
func (n *Node) ID(context.Context) (api.Identity, error) {
	return api.Identity{PeerID: n.host.ID().String(), Addrs: n.addrs(), Version: n.cfg.Version, Site: n.cfg.Site}, nil
}

// addrs returns where this node can be reached, with its peer ID.
func (n *Node) addrs() []string {
	addrs := []string{}
	for _, a := range n.host.Addrs() {
		addrs = append(addrs, a.String())
	}
	return addrs
}
