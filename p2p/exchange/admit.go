package exchange

import (
	"context"
	"time"

	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/network"
)

// idleAfter is how long nothing must have gone over a stream for it to be
// ended when there is no room for another.
const idleAfter = 10 * time.Second

// admit registers a stream. The result is nil if it is not to be served: its
// peer has too many, or is banned, or there is no room.
func (s *Server) admit(stream network.Stream, cancel context.CancelFunc) *served {
	st, g, verdict := s.tryAdmit(stream, cancel)
	switch verdict {
	case tooMany:
		s.offends(g, offence.Streams, "opens more streams than it may have")
	case farTooMany:
		s.offends(g, offence.Streams, "cut off: opens streams without end")
		s.cutOff(g)
	case banned:
		_ = s.host.Network().ClosePeer(g.id)
	}
	return st
}

// verdict says what is to be done about a new stream.
type verdict int

const (
	admitted verdict = iota
	noRoom
	tooMany
	farTooMany
	banned
)

func (s *Server) tryAdmit(stream network.Stream, cancel context.CancelFunc) (*served, *guest, verdict) {
	conn := stream.Conn()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guest(conn.RemotePeer())
	s.settle(g, addressKey(conn))
	switch {
	case s.closed:
		return nil, g, noRoom
	case now.Before(g.bannedUntil):
		return nil, g, banned
	case g.streams >= s.cfg.MaxStreamsPerPeer, g.conns[conn] == 0 && len(g.conns) >= maxConnsPerPeer:
		if g.refused.add(1, now) > 0 {
			return nil, g, farTooMany
		}
		return nil, g, tooMany
	case len(s.streams) >= s.cfg.MaxStreams && !s.makeRoom(g, now):
		return nil, g, noRoom
	}
	st := &served{
		server: s, guest: g, at: g.at, stream: stream, cancel: cancel,
		queue: newServeQueue(s.cfg.MaxQueue, s.cfg.MaxQueuePerPeer, &g.queued, &g.at.queued, &s.queue), out: make(chan answer, 2),
	}
	st.active.Store(now.UnixNano())
	s.streams[st] = struct{}{}
	g.streams++
	g.at.streams++
	g.conns[conn]++
	s.wg.Add(1)
	return st, g, admitted
}

// makeRoom ends the stream that was idle for longest, or else one of the peer
// that has most at the address that has most, if that is more than g, or its
// address, will have. It reports whether it did. s.mu is held.
func (s *Server) makeRoom(g *guest, now time.Time) bool {
	var idlest, greedy *served
	for st := range s.streams {
		if idlest == nil || st.active.Load() < idlest.active.Load() {
			idlest = st
		}
		if greedy == nil || st.greedier(greedy) {
			greedy = st
		}
	}
	gone := greedy
	switch idle := now.Sub(time.Unix(0, idlest.active.Load())); {
	case idle >= idleAfter:
		gone = idlest
	case greedy.at != g.at && greedy.at.streams <= g.at.streams+1, greedy.at == g.at && greedy.guest.streams <= g.streams+1:
		return false
	}
	s.remove(gone)
	gone.cancel()
	return true
}

// greedier reports whether the address of s has more streams than that of o,
// or at the same address its peer.
func (s *served) greedier(o *served) bool {
	if s.at != o.at {
		return s.at.streams > o.at.streams || s.at.streams == o.at.streams && s.guest.streams > o.guest.streams
	}
	return s.guest.streams > o.guest.streams
}

// leave takes away a stream that has ended.
func (s *Server) leave(st *served) {
	s.mu.Lock()
	s.remove(st)
	s.mu.Unlock()
	s.wg.Done()
}

// remove takes a stream out of what is counted, once. s.mu is held.
func (s *Server) remove(st *served) {
	if _, ok := s.streams[st]; !ok {
		return
	}
	delete(s.streams, st)
	g, conn := st.guest, st.stream.Conn()
	g.streams--
	st.at.streams--
	if g.conns[conn]--; g.conns[conn] == 0 {
		delete(g.conns, conn)
	}
}
