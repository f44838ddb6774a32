package exchange

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// maxServedPeers bounds how many peers are counted one by one.
const maxServedPeers = 4096

// ServerStats counts what a Server did, for one peer or for all.
type ServerStats struct {
	Chunks     uint64 // chunks sent
	BytesSent  uint64 // bytes of those chunks, as packed
	Missing    uint64 // requests answered "don't have"
	Refused    uint64 // requests answered "busy" or "error"
	Violations uint64 // times a peer was cut off
}

type peerServed struct {
	ServerStats
	streams     int       // open now
	bannedUntil time.Time // after a violation
}

// Stats returns the counts of all peers together and of each peer served.
func (s *Server) Stats() (total ServerStats, peers map[peer.ID]ServerStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers = make(map[peer.ID]ServerStats, len(s.peers))
	for p, c := range s.peers {
		peers[p] = c.ServerStats
	}
	return s.total, peers
}

// count applies f to the counts of p and to the total.
func (s *Server) count(p peer.ID, f func(*ServerStats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.total)
	f(&s.served(p).ServerStats)
}

// served returns the counts of p. With too many peers one that has no stream
// and no ban is forgotten. s.mu is held.
func (s *Server) served(p peer.ID) *peerServed {
	c := s.peers[p]
	if c != nil {
		return c
	}
	if len(s.peers) >= maxServedPeers {
		for q, old := range s.peers {
			if old.streams == 0 && time.Now().After(old.bannedUntil) {
				delete(s.peers, q)
				break
			}
		}
	}
	c = &peerServed{}
	s.peers[p] = c
	return c
}
