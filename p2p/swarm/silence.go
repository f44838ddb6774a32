package swarm

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// gapMemory is how many answers it takes to forget most of a long wait.
	gapMemory = 32
	// patienceGaps is how many times as long as it lately did a peer may let us
	// wait before it counts as silent.
	patienceGaps = 3
	minPatience  = 400 * time.Millisecond
	// firstPatience is for a peer that has not answered yet, unless others answer
	// meanwhile.
	firstPatience = time.Second
	// farPatience is the least for a peer at another site: uplinks lose packets,
	// and carry the bytes of many.
	farPatience = 2 * time.Second
	// maxGap is the most that is learned of a peer that did not answer.
	maxGap = 3 * time.Second
	// trickle is how much longer than for the next byte the next whole answer is
	// waited for.
	trickle = 4
)

// silence is how long the peer has let us wait for an answer in a lane by now;
// 0 when none is due.
func (r *peerRecord) silence(lane int, now time.Time) time.Duration {
	if r.inflight[lane] == 0 {
		return 0
	}
	return max(now.Sub(latest(r.sign[lane], r.waits[lane])), 0)
}

// patience is how long the peer may be silent; first if it never answered.
func (r *peerRecord) patience(lane int, first time.Duration) time.Duration {
	if r.gap[lane] == 0 {
		return first
	}
	return max(patienceGaps*r.gap[lane], minPatience)
}

// silentAt returns when p will have been silent for too long if nothing comes,
// by what is known now: no byte, or for several times as long no whole answer.
// It is first after the request if p never answered, and never earlier than
// least after the last sign.
func (b *peerBook) silentAt(p peer.ID, class Class, first, least time.Duration, now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, lane := b.record(p), laneOf(class)
	patience := max(r.patience(lane, first), least)
	sign := now.Add(-r.silence(lane, now))
	at := sign.Add(patience)
	if !now.Before(at) {
		at = latest(at, b.arrivedAt(p, class).Add(patience))
		at = earliest(at, sign.Add(trickle*patience))
	}
	return at
}

// arrivedAt is when the last byte of an answer came; the zero time if that is
// not known.
func (b *peerBook) arrivedAt(p peer.ID, class Class) time.Time {
	if b.arrived == nil {
		return time.Time{}
	}
	return b.arrived(p, class)
}

// answerless is for how long p has let us wait for a whole answer.
func (b *peerBook) answerless(p peer.ID, class Class, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record(p).silence(laneOf(class), now)
}
