package swarm

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Totals counts what the swarm did with all peers.
type Totals struct {
	BytesReceived uint64 // of verified chunks, as packed
	BytesSite     uint64 // those of them that came from peers at this node's site
	BytesSent     uint64 // of chunks served to others, as packed
	BytesNeedless uint64 // of verified chunks that came after somebody else's, as packed; not in BytesReceived
	Chunks        uint64 // received and verified
	Corrupt       uint64 // answers with wrong bytes
	Hedged        uint64 // times a second peer was asked because the first was late
	NotFound      uint64 // chunks nobody gave in time
}

// PeerStats is what is known of one peer.
type PeerStats struct {
	ID            peer.ID
	Site          string // as the peer told
	Near          bool   // at this node's site
	BytesReceived uint64 // of verified chunks, as packed
	BytesSent     uint64 // of chunks served to it, as packed
	Chunks        uint64
	Failures      uint64        // wrong bytes, stalls, broken connections
	Missing       uint64        // answers "don't have"
	InFlight      int           // requests now
	RTT           time.Duration // smoothed time to the answer of a single request
	Throughput    float64       // smoothed bytes per second while busy; 0 when not measured

	QuarantinedUntil time.Time // not asked before; zero when it may be asked
	Reason           string    // of the last quarantine, also of one that is over
}

// Stats is a snapshot.
type Stats struct {
	Totals
	Peers []PeerStats // by bytes received, most first
}

// Stats returns the present figures.
func (s *Swarm) Stats() Stats {
	b := s.peers
	now := time.Now()
	b.mu.Lock()
	out := Stats{Totals: b.total}
	byID := make(map[peer.ID]*PeerStats, len(b.peers))
	for p, r := range b.peers {
		st := &PeerStats{
			ID: p, BytesReceived: r.bytes, Chunks: r.chunks, Failures: r.failures, Missing: r.misses,
			InFlight: r.requests(), RTT: r.rtt, Throughput: r.throughput, Reason: r.reason,
		}
		if now.Before(r.until) {
			st.QuarantinedUntil = r.until
		}
		byID[p] = st
	}
	b.mu.Unlock()
	if s.cfg.Served != nil {
		for p, served := range s.cfg.Served() {
			if byID[p] == nil {
				byID[p] = &PeerStats{ID: p}
			}
			byID[p].BytesSent = served.BytesSent
			out.BytesSent += served.BytesSent
		}
	}
	s.shares.mu.Lock()
	for p, st := range byID {
		st.Site, st.Near = s.shares.sites[p], s.near(p)
		if st.Near {
			out.BytesSite += st.BytesReceived
		}
	}
	s.shares.mu.Unlock()
	for _, st := range byID {
		out.Peers = append(out.Peers, *st)
	}
	slices.SortFunc(out.Peers, func(x, y PeerStats) int {
		return cmp.Or(cmp.Compare(y.BytesReceived, x.BytesReceived), cmp.Compare(x.ID, y.ID))
	})
	return out
}

// discarded counts n bytes of a verified chunk nobody waited for any more.
func (b *peerBook) discarded(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total.BytesNeedless += uint64(n)
}

func (b *peerBook) countHedge() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total.Hedged++
}

func (b *peerBook) countNotFound() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total.NotFound++
}
