package exchange

import "github.com/libp2p/go-libp2p/core/peer"

// ServerStats counts what a Server did, for one peer or for all.
type ServerStats struct {
	Chunks     uint64 // chunks sent
	BytesSent  uint64 // bytes of those chunks, as packed
	Missing    uint64 // requests answered "don't have"
	Refused    uint64 // requests answered "busy" or "error"
	Violations uint64 // times a peer was cut off
}

// Stats returns the counts of all peers together and of each peer served.
func (s *Server) Stats() (total ServerStats, peers map[peer.ID]ServerStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers = make(map[peer.ID]ServerStats, len(s.guests))
	for p, g := range s.guests {
		peers[p] = g.ServerStats
	}
	return s.total, peers
}

// count applies f to the counts of g and to the total.
func (s *Server) count(g *guest, f func(*ServerStats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.total)
	f(&g.ServerStats)
}
