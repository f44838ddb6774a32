package swarm

import (
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Nodes of one site that read the same chunks at the same time share the
// uplink: who asks beyond it tells the others, and they wait for him. When two
// ask at once, before they have heard of one another, the one rendezvous
// hashing names goes on and the other leaves the chunk to him.
const (
	bringTime     = time.Second     // how long a read waits for who brings its chunk
	bringTimeBulk = 3 * time.Second // the same for what nobody waits for
	// yieldWithin is how long after asking a chunk may be left to another who
	// asked at about the same time: news are gathered for talkEvery on both
	// sides.
	yieldWithin = 4*talkEvery + 100*time.Millisecond
)

// brings tells the other nodes of this site that id is asked for at p, and
// reports whether p is beyond the uplink. Who has all chunks is not told.
func (s *Swarm) brings(roots []chunk.ID, id chunk.ID, p peer.ID) bool {
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.near(p) {
		return false
	}
	for sh, i := range h.with(roots, id) {
		for q, m := range sh.members {
			if m.near && !m.seed {
				s.talkers.fetching(q, sh.table.Root, i)
			}
		}
	}
	return true
}

// broughtBy returns the node of this site that said it fetches id, and when
// it did; "" if there is none that can be believed.
func (s *Swarm) broughtBy(roots []chunk.ID, id chunk.ID) (by peer.ID, at time.Time) {
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	for sh, i := range h.with(roots, id) {
		c, ok := sh.begun[i]
		if m := sh.members[c.by]; ok && m != nil && m.near && !m.aside && c.at.After(at) {
			by, at = c.by, c.at
		}
	}
	return by, at
}

// comes reports whether another node of this site brings the chunk, and until
// when that is waited for.
func (x *fetch) comes(roots []chunk.ID, now time.Time) (until time.Time, ok bool) {
	by, at := x.s.broughtBy(roots, x.f.id)
	if by == "" {
		return time.Time{}, false
	}
	patience := bringTimeBulk
	if x.class <= Readahead {
		patience = bringTime
	}
	until = at.Add(patience)
	return until, now.Before(until)
}

// yield leaves the chunk to a node of this site that asked for it beyond the
// uplink at about the same time, if it is for that one to fetch.
func (x *fetch) yield(roots []chunk.ID, now time.Time) {
	for p, a := range x.active {
		if !a.far || now.Sub(a.began) > yieldWithin {
			continue
		}
		by, at := x.s.broughtBy(roots, x.f.id)
		if by == "" || at.Before(a.began) || owner([]peer.ID{by, x.s.cfg.Self}, x.f.id) != by {
			continue
		}
		a.cancel()
		delete(x.active, p)
		x.s.peers.gaveUp(p, a.class, 0, false, now)
		x.hedgeAt = time.Time{}
	}
}

// pokeFlights makes those who wait for chunks of sh look around again.
func (s *Swarm) pokeFlights(sh *share, places []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.flights) == 0 {
		return
	}
	for _, i := range places {
		if int(i) >= len(sh.table.IDs) {
			continue
		}
		if f := s.flights[sh.table.IDs[i]]; f != nil {
			poke(f.news)
		}
	}
}
