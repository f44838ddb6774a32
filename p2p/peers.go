package p2p

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
)

// PeerInfo describes a connected peer.
type PeerInfo struct {
	ID        peer.ID
	Addrs     []ma.Multiaddr // of the connections to it
	Direction string         // "inbound" or "outbound": who opened the first connection
	Transport string         // "tcp" or "quic-v1"
	Agent     string         // what the peer says it is
	Latency   time.Duration  // smoothed, 0 when not known
	Since     time.Time      // when the first connection was opened
}

// Peers returns the connected peers, ordered by ID.
func (h *Host) Peers() []PeerInfo {
	var out []PeerInfo
	for _, id := range h.host.Network().Peers() {
		if info, ok := h.peerInfo(id); ok {
			out = append(out, info)
		}
	}
	slices.SortFunc(out, func(a, b PeerInfo) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

func (h *Host) peerInfo(id peer.ID) (PeerInfo, bool) {
	conns := h.host.Network().ConnsToPeer(id)
	if len(conns) == 0 {
		return PeerInfo{}, false
	}
	slices.SortFunc(conns, func(a, b network.Conn) int { return a.Stat().Opened.Compare(b.Stat().Opened) })
	first := conns[0]
	info := PeerInfo{
		ID: id, Direction: strings.ToLower(first.Stat().Direction.String()),
		Transport: first.ConnState().Transport, Since: first.Stat().Opened,
		Latency: h.host.Peerstore().LatencyEWMA(id),
	}
	for _, c := range conns {
		info.Addrs = append(info.Addrs, c.RemoteMultiaddr())
	}
	if v, err := h.host.Peerstore().Get(id, "AgentVersion"); err == nil {
		info.Agent, _ = v.(string)
	}
	return info, true
}

// FindProviders asks the DHT who announced id. Up to max other nodes (0: all)
// come over the channel as they are found; it is closed when the search is
// over or ctx has ended. The caller must read until then, or end ctx. What
// comes is a hint: a provider may have dropped the chunk.
func (h *Host) FindProviders(ctx context.Context, id chunk.ID, max int) <-chan peer.AddrInfo {
	ask := max
	if max > 0 {
		ask++ // this node may be one of them
	}
	out := make(chan peer.AddrInfo)
	ctx, cancel := context.WithCancel(ctx)
	in := h.dht.FindProvidersAsync(ctx, id.CID(), ask)
	go func() {
		defer close(out)
		defer cancel()
		n := 0
		for p := range in {
			if p.ID == h.ID() || max > 0 && n >= max {
				continue
			}
			h.host.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.TempAddrTTL)
			select {
			case out <- p:
				n++
			case <-ctx.Done():
			}
		}
	}()
	return out
}

func containsAddr(addrs []ma.Multiaddr, a ma.Multiaddr) bool {
	return slices.ContainsFunc(addrs, a.Equal)
}
