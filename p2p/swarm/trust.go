package swarm

import (
	"errors"
	"fmt"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// A peer whose score of wrong claims reaches doubtAt is asked after all
	// others for doubtTime; at suspectAt it is not asked at all for a while. A
	// claim that was wrong counts 1, a chunk it gave takes goodClaim off, so that
	// one who now and then lacks what it told is believed.
	doubtAt   = 8.0
	suspectAt = 32.0
	goodClaim = 1.0 / 8
	doubtTime = time.Minute
	// doubtCost makes a doubted peer worse than any other of its kind.
	doubtCost = 16
)

// trust is how far what a peer claims to hold is believed. It outlasts leaving
// and joining again.
type trust struct {
	wrong float64   // score of wrong claims
	until time.Time // doubted before
}

// wronged notes a wrong claim. It reports whether the peer is doubted from now
// on, and whether it is to be left alone.
func (t *trust) wronged(now time.Time) (doubted, suspected bool) {
	t.wrong++
	if t.wrong >= suspectAt {
		t.wrong = suspectAt / 2
		t.until = now.Add(doubtTime)
		return true, true
	}
	if t.wrong < doubtAt || now.Before(t.until) {
		return false, false
	}
	t.until = now.Add(doubtTime)
	return true, false
}

// gave notes that the peer gave a chunk.
func (t *trust) gave() { t.wrong = max(0, t.wrong-goodClaim) }

// doubted returns until when p's claims are not believed.
func (b *peerBook) doubted(p peer.ID) (until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.peers[p]; r != nil {
		until = r.trust.until
	}
	return until
}

func (b *peerBook) wronged(p peer.ID, now time.Time) (doubted, suspected bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record(p).trust.wronged(now)
}

// claimedWrongly notes that p, a member of sh, does not have chunk i, if it
// said it had. One that does so often is believed no more for a while. h.mu is
// held.
func (s *Swarm) claimedWrongly(sh *share, p peer.ID, i uint32, now time.Time) {
	m := sh.members[p]
	if m == nil || !m.have.has(i) {
		return
	}
	m.have.clear(i)
	m.n--
	sh.count(m, i, minus)
	doubted, suspected := s.peers.wronged(p, now)
	if doubted {
		until := s.peers.doubted(p)
		for _, other := range s.shares.all {
			if m := other.members[p]; m != nil {
				m.doubted = until
			}
		}
		s.cfg.Offences.Note(p, offence.Forged, fmt.Sprintf("claims chunks of flist %s it does not have", sh.table.Root))
	}
	if suspected {
		s.peers.suspect(p, "claimed chunks it did not have", now)
		sh.remove(p)
	}
}

// missedClaim is claimedWrongly for a chunk of any of these flists.
func (s *Swarm) missedClaim(roots []chunk.ID, p peer.ID, id chunk.ID, now time.Time) {
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, root := range roots {
		if sh := h.all[root]; sh != nil {
			if i, ok := sh.place(id); ok {
				s.claimedWrongly(sh, p, i, now)
			}
		}
	}
}

// noteWrongBytes notes that p sent bytes that are not the chunk's. What breaks
// the protocol was noted where it was found.
func (s *Swarm) noteWrongBytes(p peer.ID, id chunk.ID, err error) {
	var corrupt *chunk.CorruptError
	if errors.As(err, &corrupt) {
		s.cfg.Offences.Note(p, offence.Corrupt, fmt.Sprintf("wrong bytes for chunk %s, not asked for a while: %v", id, err))
	}
}
