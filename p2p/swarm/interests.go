package swarm

import (
	"context"
	"errors"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Bounds of what is remembered of flists that others share and this node does
// not, and of the work they make.
const (
	maxInterests      = 64       // of one peer
	maxInterestBytes  = 4 << 20  // of one peer, about
	interestBytes     = 64 << 20 // of all, about
	interestOverhead  = 512      // bytes, besides the bitmap
	loadAgain         = 10 * time.Second
	maxLoading        = 4096 // flists of which it is known when Held was last asked
	maxLoads          = 128  // that wait to be loaded
	parallelLoads     = 2
	loadBurst         = 64 // loads a peer may cause at once
	loadEvery         = time.Second
	maxHearsayMembers = maxMembers / 2
	maxHearsayTalkers = maxTalkers / 2
)

// interest is what a peer told of an flist that is not shared here.
type interest struct {
	join  exchange.Message
	reads bool
}

// interests are what peers told of flists that are not shared here. shares.mu
// guards them.
type interests struct {
	address func(peer.ID) string

	of    map[chunk.ID]map[peer.ID]*interest
	roots map[peer.ID]map[chunk.ID]bool
	bytes map[peer.ID]int
	at    map[peer.ID]string
	all   int // bytes
}

func newInterests(address func(peer.ID) string) interests {
	return interests{
		address: address, of: map[chunk.ID]map[peer.ID]*interest{}, roots: map[peer.ID]map[chunk.ID]bool{},
		bytes: map[peer.ID]int{}, at: map[peer.ID]string{},
	}
}

func (in *interest) size() int { return len(in.join.Have) + interestOverhead }

// add remembers what p told, within the bounds: one who tells of too much
// displaces what it told before, and when all tell too much, the address of
// which most was told loses some of it.
func (t *interests) add(p peer.ID, msg exchange.Message) bool {
	t.remove(p, msg.Root)
	at := t.address(p)
	if len(t.of[msg.Root]) >= exchange.MaxMembers && !t.makeRoom(msg.Root, at) {
		return false
	}
	in := &interest{join: msg}
	for len(t.roots[p]) >= maxInterests || len(t.roots[p]) > 0 && t.bytes[p]+in.size() > maxInterestBytes {
		t.removeOne(p)
	}
	for t.all+in.size() > interestBytes {
		t.removeOne(t.greediest())
	}
	if t.of[msg.Root] == nil {
		t.of[msg.Root] = map[peer.ID]*interest{}
	}
	if t.roots[p] == nil {
		t.roots[p] = map[chunk.ID]bool{}
	}
	t.at[p] = at
	t.of[msg.Root][p] = in
	t.roots[p][msg.Root] = true
	t.bytes[p] += in.size()
	t.all += in.size()
	return true
}

// remove forgets what p told of root.
func (t *interests) remove(p peer.ID, root chunk.ID) {
	in := t.of[root][p]
	if in == nil {
		return
	}
	t.all -= in.size()
	if t.bytes[p] -= in.size(); t.bytes[p] == 0 {
		delete(t.bytes, p)
	}
	if delete(t.of[root], p); len(t.of[root]) == 0 {
		delete(t.of, root)
	}
	if delete(t.roots[p], root); len(t.roots[p]) == 0 {
		delete(t.roots, p)
		delete(t.at, p)
	}
}

// makeRoom forgets that a peer shares root, one of the address of which most
// do. It reports whether it did.
func (t *interests) makeRoom(root chunk.ID, at string) bool {
	counts := map[string]int{}
	for p := range t.of[root] {
		counts[t.at[p]]++
	}
	most, ok := crowded(counts, at, 1)
	if !ok {
		return false
	}
	for p := range t.of[root] {
		if t.at[p] == most {
			t.remove(p, root)
			return true
		}
	}
	return false
}

// removeOne forgets something that p told.
func (t *interests) removeOne(p peer.ID) {
	for root := range t.roots[p] {
		t.remove(p, root)
		return
	}
}

// greediest returns who told most, of those at the address of which most was
// told.
func (t *interests) greediest() (most peer.ID) {
	counts := map[string]int{}
	for p, n := range t.bytes {
		counts[t.at[p]] += n
	}
	at, _ := crowded(counts, "", 0)
	for p, n := range t.bytes {
		if t.at[p] == at && n > t.bytes[most] {
			most = p
		}
	}
	return most
}

// take returns what was told of root, which is no longer remembered.
func (t *interests) take(root chunk.ID) map[peer.ID]*interest {
	all := map[peer.ID]*interest{}
	for p, in := range t.of[root] {
		all[p] = in
	}
	for p := range all {
		t.remove(p, root)
	}
	return all
}

// interest remembers that p shares an flist this node does not share, and asks
// whether it is held here.
func (s *Swarm) interest(p peer.ID, msg exchange.Message) {
	h := s.shares
	now := time.Now()
	if !h.interests.add(p, msg) || s.cfg.Held == nil || now.Sub(h.loading[msg.Root]) < loadAgain ||
		h.loads >= maxLoads || !h.mayLoad(p, now) {
		return
	}
	if len(h.loading) >= maxLoading {
		clear(h.loading)
	}
	h.loading[msg.Root] = now
	if s.spawn(s.loadHeld(msg.Root)) {
		h.loads++
	}
}

// mayLoad counts a load that p causes, and reports whether it may: after a
// burst, one every loadEvery.
func (h *shares) mayLoad(p peer.ID, now time.Time) bool {
	next := latest(h.loadNext[p], now.Add(-loadBurst*loadEvery))
	if next.After(now) {
		return false
	}
	if len(h.loadNext) >= maxPeers {
		clear(h.loadNext)
	}
	h.loadNext[p] = next.Add(loadEvery)
	return true
}

// loadHeld returns the work of sharing an flist that others share and that is
// held here.
func (s *Swarm) loadHeld(root chunk.ID) func(context.Context) {
	return func(ctx context.Context) {
		h := s.shares
		defer func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.loads--
		}()
		select {
		case h.loadSlots <- struct{}{}:
			defer func() { <-h.loadSlots }()
		case <-ctx.Done():
			return
		}
		t, places, err := s.cfg.Held(ctx, root)
		if err == nil {
			err = s.Share(t, places)
		}
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			s.cfg.Log.Debug("flist cannot be shared", "flist", root, "err", err)
		}
	}
}

// hearsay tells q, of whom another peer said that it shares sh. Half of the
// places are kept for those who say so themselves.
func (s *Swarm) hearsay(sh *share, q peer.ID) {
	if len(sh.told) < maxHearsayMembers && s.talkers.count() < maxHearsayTalkers {
		s.tell(sh, q)
	}
}
