package swarm

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

// maxAsked is how many requests to peers are remembered, of all chunks.
const maxAsked = 4096

// maxAnswer bounds a remembered answer, in bytes.
const maxAnswer = 300

const (
	Gave = "gave it"       // the answer of a peer that sent the chunk
	Owes = "no answer yet" // of one that is being asked
)

// Asked is a request to a peer and how it ended, or that it has not.
type Asked struct {
	Peer   peer.ID
	Class  Class
	Time   time.Time // of the answer; now for Owes
	Took   time.Duration
	Answer string // Gave, Owes, what it answered instead, or what went wrong
}

// Holder is a peer that shares an flist the chunk belongs to.
type Holder struct {
	Peer  peer.ID
	Near  bool // at this node's site
	Holds bool // says that it holds the chunk
}

// Whereabouts says what is known of a chunk.
type Whereabouts struct {
	Fetching  bool      // it is being fetched now
	Members   []Holder  // in no order
	Providers []peer.ID // who announced it, as far as is known
	Asked     []Asked   // now and lately, the last one first
}

// askLog remembers the last requests to peers. It may be used from many
// goroutines at once.
type askLog struct {
	mu   sync.Mutex
	ring []loggedAsk
	next int
	open map[*loggedAsk]bool // those that are not answered; Time is when they began
}

type loggedAsk struct {
	id chunk.ID
	Asked
}

func (l *askLog) add(id chunk.ID, p peer.ID, class Class, began, now time.Time, err error) {
	answer := Gave
	if err != nil {
		answer = err.Error()
	}
	if len(answer) > maxAnswer {
		answer = answer[:maxAnswer] + "..."
	}
	entry := loggedAsk{id, Asked{Peer: p, Class: class, Time: now, Took: now.Sub(began), Answer: strings.ToValidUTF8(answer, "?")}}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < maxAsked {
		l.ring = append(l.ring, entry)
		return
	}
	l.ring[l.next] = entry
	l.next = (l.next + 1) % maxAsked
}

// asking notes that a request begins. The caller calls end when it has ended.
func (l *askLog) asking(id chunk.ID, p peer.ID, class Class) (end func()) {
	began := time.Now()
	a := &loggedAsk{id, Asked{Peer: p, Class: class, Time: began, Answer: Owes}}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[*loggedAsk]bool{}
	}
	l.open[a] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, a)
	}
}

// of returns the requests for id, the last one first.
func (l *askLog) of(id chunk.ID) (out []Asked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for i := range l.ring {
		if e := l.ring[(l.next+i)%len(l.ring)]; e.id == id {
			out = append(out, e.Asked)
		}
	}
	open := len(out)
	for e := range l.open {
		if e.id == id {
			out = append(out, Asked{Peer: e.Peer, Class: e.Class, Time: now, Took: now.Sub(e.Time), Answer: Owes})
		}
	}
	slices.SortFunc(out[open:], func(a, b Asked) int { return cmp.Compare(b.Took, a.Took) })
	slices.Reverse(out)
	return out
}

// Whereabouts returns what is known of a chunk, without asking anybody.
func (s *Swarm) Whereabouts(id chunk.ID) Whereabouts {
	w := Whereabouts{Asked: s.asked.of(id), Providers: slices.Clone(s.providers.known(id))}
	s.mu.Lock()
	w.Fetching = s.flights[id] != nil
	s.mu.Unlock()
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, sh := range h.all {
		i, ok := sh.place(id)
		if !ok {
			continue
		}
		for j := range sh.jobs {
			w.Fetching = w.Fetching || len(j.inflight[i]) > 0
		}
		for p, m := range sh.members {
			w.Members = append(w.Members, Holder{Peer: p, Near: m.near, Holds: m.have.has(i)})
		}
	}
	return w
}

// Providers looks up who announced a chunk, or the flist whose root block it
// is, and returns what was found when the lookup ends or ctx does.
func (s *Swarm) Providers(ctx context.Context, id chunk.ID) []peer.ID {
	news := make(chan struct{}, 1)
	defer s.providers.unwatch(id, news)
	began := time.Now()
	for {
		// What was found since this call began is new enough.
		peers, running := s.providers.find(id, max(time.Since(began), time.Nanosecond), news)
		if !running {
			return slices.Clone(peers)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return slices.Clone(s.providers.known(id))
		}
	}
}
