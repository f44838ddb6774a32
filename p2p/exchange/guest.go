package exchange

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// maxGuests bounds how many peers are counted one by one.
	maxGuests = 4096
	// maxConnsPerPeer is over how many connections at a time a peer is served:
	// each has its own share of a full link.
	maxConnsPerPeer = 4
	// What a peer may tell, in bytes: more is read no faster.
	talkBurst = 4 << 20
	talkRate  = 1 << 20 // a second
	// How many requests of a peer may be answered without a chunk: then no more
	// are read than so many a second.
	emptyBurst = 16 << 10
	emptyRate  = 4 << 10
	// How many streams too many a peer may open before it is cut off.
	streamBurst = 64
	streamRate  = 1 // a second
)

// guest is a peer that is or was served.
type guest struct {
	id     peer.ID
	queued atomic.Int64      // requests that wait, on all its streams
	reads  account           // in Server.reads
	sends  [numLanes]account // in Server.sends
	told   pace              // bytes, about
	empty  pace              // requests

	// Guarded by Server.mu.
	ServerStats
	at          *address
	streams     int // open now
	conns       map[network.Conn]int
	refused     pace      // streams
	bannedUntil time.Time // after a violation
}

func newGuest(p peer.ID) *guest {
	now := time.Now()
	return &guest{
		id: p, conns: map[network.Conn]int{},
		told:    pace{burst: talkBurst, rate: talkRate, last: now},
		empty:   pace{burst: emptyBurst, rate: emptyRate, last: now},
		refused: pace{burst: streamBurst, rate: streamRate, last: now},
	}
}

// guest returns the guest p. With too many, one that has no stream is
// forgotten: of a few, if possible one that is not banned. s.mu is held.
func (s *Server) guest(p peer.ID) *guest {
	g := s.guests[p]
	if g != nil {
		return g
	}
	if len(s.guests) >= maxGuests {
		var gone *guest
		now, looked := time.Now(), 0
		for _, old := range s.guests {
			if old.streams > 0 {
				continue
			}
			gone = old
			if looked++; looked == 32 || now.After(old.bannedUntil) {
				break
			}
		}
		if gone != nil {
			delete(s.guests, gone.id)
		}
	}
	g = newGuest(p)
	s.guests[p] = g
	return g
}

// cutOff ends the connection to a peer and serves it no more for a while.
func (s *Server) cutOff(g *guest) {
	s.mu.Lock()
	g.bannedUntil = time.Now().Add(s.cfg.BanTime)
	s.mu.Unlock()
	_ = s.host.Network().ClosePeer(g.id)
}

// offends notes what a peer did that it should not.
func (s *Server) offends(g *guest, k offence.Kind, detail string) {
	s.cfg.Offences.Note(g.id, k, detail)
}

// pace bounds how fast something happens: after a burst of so many, so many a
// second.
type pace struct {
	burst, rate float64

	mu    sync.Mutex
	spent float64
	last  time.Time
}

// add counts n and returns how long to wait before more is begun.
func (p *pace) add(n int, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spent = max(0, p.spent-now.Sub(p.last).Seconds()*p.rate) + float64(n)
	p.last = now
	return time.Duration(max(0, p.spent-p.burst) / p.rate * float64(time.Second))
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
