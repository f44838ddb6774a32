package swarm

import (
	"context"
	"slices"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxHintRoots = 4
	maxHintPeers = 32
)

// flight is one chunk being fetched, for all who wait for it.
type flight struct {
	id     chunk.ID
	cancel context.CancelFunc
	news   chan struct{} // one token when the fetch should look around again
	done   chan struct{} // closed when the result is there

	// The result. Written before done is closed, then never again.
	packed chunk.Packed
	plain  []byte
	err    error

	// Guarded by Swarm.mu.
	waiters int
	class   Class // the most urgent of any waiter
	roots   []chunk.ID
	peers   []peer.ID
}

// join adds a waiter to the flight of id, and starts one if there is none.
func (s *Swarm) join(id chunk.ID, class Class, hints []Hint) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flights[id]
	if f == nil {
		f = &flight{id: id, class: class, news: make(chan struct{}, 1), done: make(chan struct{})}
		f.addHints(hints)
		ctx, cancel := context.WithCancel(context.Background())
		f.cancel = cancel
		ok := s.spawn(func(swarm context.Context) {
			stop := context.AfterFunc(swarm, cancel)
			defer stop()
			defer cancel()
			s.fly(ctx, swarm, f)
		})
		if !ok {
			cancel()
			return nil, ErrEnded
		}
		s.flights[id] = f
	}
	f.waiters++
	f.addHints(hints)
	f.class = min(f.class, class)
	poke(f.news)
	return f, nil
}

// addHints adds what is new in hints, within bounds.
func (f *flight) addHints(hints []Hint) {
	for _, h := range hints {
		if h.Root != (chunk.ID{}) && len(f.roots) < maxHintRoots && !slices.Contains(f.roots, h.Root) {
			f.roots = append(f.roots, h.Root)
		}
		for _, p := range h.Peers {
			if len(f.peers) < maxHintPeers && !slices.Contains(f.peers, p) {
				f.peers = append(f.peers, p)
			}
		}
	}
}

// leave takes a waiter away. The last one takes the flight with it.
func (s *Swarm) leave(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		f.cancel()
		s.forget(f)
	}
}

// forget makes room for a new flight of the same chunk. s.mu is held.
func (s *Swarm) forget(f *flight) {
	if s.flights[f.id] == f {
		delete(s.flights, f.id)
	}
}

// fly fetches the chunk of f and gives the result to its waiters.
func (s *Swarm) fly(ctx, swarm context.Context, f *flight) {
	x := newFetch(s, f)
	f.packed, f.plain, f.err = x.run(ctx)
	if swarm.Err() != nil && f.err != nil {
		f.err = ErrEnded
	}
	s.mu.Lock()
	s.forget(f)
	s.mu.Unlock()
	close(f.done)
}

// wants returns what the waiters of f want now. The slices are not written to
// in place and may be kept.
func (s *Swarm) wants(f *flight) (Class, []chunk.ID, []peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.class, f.roots, f.peers
}

// poke puts a token into a channel of capacity one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
