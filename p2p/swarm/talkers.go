package swarm

import (
	"context"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Teller tells peers what this node holds. Its errors mean that a peer must be
// told all again.
type Teller interface {
	Tell(ctx context.Context, p peer.ID, messages ...exchange.Message) error
	Hush(p peer.ID) // p is told nothing more
}

const (
	maxTalkers = 256
	maxSay     = 64                    // messages that wait for a peer
	talkEvery  = 25 * time.Millisecond // news are gathered for so long
	// farTalkEvery is the same for peers beyond the uplink: each message to each
	// peer there crosses it.
	farTalkEvery = 250 * time.Millisecond
	talkRetry    = time.Second // doubles
	talkGiveUp   = 10          // failures in a row
)

// talkers tell each peer what is new, a little later and many things at once.
type talkers struct {
	s  *Swarm
	mu sync.Mutex
	to map[peer.ID]*talker
}

// talker is what one peer is to be told.
type talker struct {
	at       string             // the peer's address
	stop     context.CancelFunc // ends telling it
	wake     chan struct{}
	joins    map[chunk.ID]bool // flists it has been told of; true: to be told
	leaves   map[chunk.ID]bool // flists it is to be told are no longer shared
	have     map[chunk.ID][]uint32
	fetching map[chunk.ID][]uint32
	say      []exchange.Message
}

// talker returns the talker to p, which it starts if need be; nil when there
// are too many. h.mu and t.mu are held.
func (t *talkers) talker(p peer.ID) *talker {
	if k := t.to[p]; k != nil {
		return k
	}
	if t.s.cfg.Teller == nil {
		return nil
	}
	at := t.s.address(p)
	if len(t.to) >= maxTalkers && !t.makeRoom(at) {
		return nil
	}
	told, stop := context.WithCancel(context.Background())
	k := &talker{
		at: at, stop: stop,
		wake: make(chan struct{}, 1), joins: map[chunk.ID]bool{}, leaves: map[chunk.ID]bool{},
		have: map[chunk.ID][]uint32{}, fetching: map[chunk.ID][]uint32{},
	}
	ok := t.s.spawn(func(swarm context.Context) {
		defer context.AfterFunc(swarm, stop)()
		defer stop()
		t.run(told, p, k)
		t.s.cfg.Teller.Hush(p)
	})
	if !ok {
		stop()
		return nil
	}
	t.to[p] = k
	return k
}

// count is how many peers are told things.
func (t *talkers) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.to)
}

// join makes p be told that this node shares root. It reports whether it will.
func (t *talkers) join(p peer.ID, root chunk.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.talker(p)
	if k == nil {
		return false
	}
	k.joins[root] = true
	poke(k.wake)
	return true
}

// leave makes p be told that this node no longer shares root, if it was told
// that it does.
func (t *talkers) leave(p peer.ID, root chunk.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.to[p]
	if k == nil {
		return
	}
	delete(k.joins, root)
	delete(k.have, root)
	delete(k.fetching, root)
	k.leaves[root] = true
	poke(k.wake)
}

func (t *talkers) have(p peer.ID, root chunk.ID, i uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.to[p]; k != nil {
		k.have[root] = append(k.have[root], i)
		poke(k.wake)
	}
}

func (t *talkers) fetching(p peer.ID, root chunk.ID, i uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.to[p]; k != nil {
		k.fetching[root] = append(k.fetching[root], i)
		poke(k.wake)
	}
}

// say tells p something once, and does not try again. It reports false when p
// will not be told.
func (t *talkers) say(p peer.ID, m exchange.Message) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.talker(p)
	if k == nil || len(k.say) >= maxSay {
		return false
	}
	k.say = append(k.say, m)
	poke(k.wake)
	return true
}

// run tells p what there is to tell until ctx ends or p cannot be reached.
func (t *talkers) run(ctx context.Context, p peer.ID, k *talker) {
	failures := 0
	fresh := true // a stream on which nothing was said yet
	for {
		select {
		case <-k.wake:
		case <-ctx.Done():
			return
		}
		messages, pause := t.gather(p, k, fresh)
		fresh = false
		if err := t.s.cfg.Teller.Tell(ctx, p, messages...); err != nil {
			t.s.cfg.Log.Debug("peer cannot be told what is held", "peer", p, "err", err)
			if failures++; failures >= talkGiveUp {
				t.giveUp(p, k)
				return
			}
			fresh = true
			t.s.keepsUntold(p)
			t.again(k)
			pause = min(talkRetry<<min(failures-1, 3), 8*time.Second)
		} else {
			failures = 0
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// gather takes all there is to tell, in the order in which it must be told, and
// returns how long to gather what comes next.
func (t *talkers) gather(p peer.ID, k *talker, fresh bool) (out []exchange.Message, pause time.Duration) {
	if fresh {
		out = append(out, exchange.Message{Kind: exchange.Hello, Site: t.s.cfg.Site})
	}
	h := t.s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for root := range k.leaves { // before a join that came later
		out = append(out, exchange.Message{Kind: exchange.Leave, Root: root})
	}
	clear(k.leaves)
	for root, due := range k.joins {
		sh := h.all[root]
		if due && sh != nil {
			n := len(sh.table.IDs)
			out = append(out, exchange.Message{Kind: exchange.Join, Root: root, Chunks: uint32(n), Have: sh.have.bytes(n)})
			delete(k.have, root) // it is in the bitmap
			if len(sh.jobs) == 0 && sh.n < n {
				out = append(out, exchange.Message{Kind: exchange.Reading, Root: root})
			}
		}
		if sh == nil {
			delete(k.joins, root)
			continue
		}
		k.joins[root] = false
	}
	out = appendIndexes(out, exchange.Have, k.have)
	out = appendIndexes(out, exchange.Fetching, k.fetching)
	out = append(out, k.say...)
	k.say = nil
	if pause = talkEvery; !t.s.near(p) {
		pause = farTalkEvery
	}
	return out, pause
}

func appendIndexes(out []exchange.Message, kind exchange.Kind, all map[chunk.ID][]uint32) []exchange.Message {
	for root, index := range all {
		for len(index) > 0 {
			n := min(len(index), exchange.MaxIndexes)
			out = append(out, exchange.Message{Kind: kind, Root: root, Index: index[:n]})
			index = index[n:]
		}
	}
	clear(all)
	return out
}

// again makes a peer be told all it was told before.
func (t *talkers) again(k *talker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for root := range k.joins {
		k.joins[root] = true
	}
	poke(k.wake)
}

// retell makes p, which was away, be told all it was told before.
func (t *talkers) retell(p peer.ID) {
	t.mu.Lock()
	k := t.to[p]
	t.mu.Unlock()
	if k != nil {
		t.again(k)
	}
}

// giveUp forgets a peer that cannot be told anything.
func (t *talkers) giveUp(p peer.ID, k *talker) {
	h := t.s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.to[p] == k {
		t.forget(p)
	}
}

// forget forgets a peer that is told nothing more. h.mu and t.mu are held.
func (t *talkers) forget(p peer.ID) {
	delete(t.to, p)
	delete(t.s.keeps.told, p)
	for _, sh := range t.s.shares.all {
		delete(sh.told, p)
		sh.remove(p)
	}
}
