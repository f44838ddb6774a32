package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// maxActive bounds how many peers are asked for one chunk at a time.
	maxActive     = 4
	maxActiveRead = 3
	maxActiveBulk = 2
	// ownLookupAfter is when a chunk's own providers are looked up although
	// the lookup of its flist's providers has not ended.
	ownLookupAfter = 250 * time.Millisecond
	// refreshAfter is how old an answer about providers may be when none of
	// them can be asked.
	refreshAfter = 2 * time.Second
	busyWait     = 100 * time.Millisecond // doubles
	maxBusyWait  = 2 * time.Second
	pollWait     = time.Second // while nobody can be asked
	// firstHedge is when a read is late at a peer that is quick, or was not
	// measured yet and may never answer.
	firstHedge = 60 * time.Millisecond
)

// fetch is the work of one flight: whom was asked, who is being asked. Only
// its own goroutine touches it.
type fetch struct {
	s       *Swarm
	f       *flight
	class   Class // the most urgent of any waiter, when last looked
	began   time.Time
	active  map[peer.ID]*ask
	answers chan answer // room for maxActive
	notYet  map[peer.ID]time.Time
	busy    map[peer.ID]int
	asked   []AskedPeer
	limit   int       // how many may be asked at a time
	hedgeAt time.Time // when limit grows; zero: never
	hedged  bool
	watched []chunk.ID
}

// ask is one request to one peer.
type ask struct {
	class  Class
	began  time.Time
	far    bool // beyond the uplink
	cancel context.CancelFunc
}

type answer struct {
	peer   peer.ID
	ask    *ask
	packed chunk.Packed
	plain  []byte
	err    error
	at     time.Time
}

func newFetch(s *Swarm, f *flight) *fetch {
	return &fetch{
		s: s, f: f, began: time.Now(), limit: 1,
		active: map[peer.ID]*ask{}, answers: make(chan answer, maxActive),
		notYet: map[peer.ID]time.Time{}, busy: map[peer.ID]int{},
	}
}

// run fetches the chunk. It asks the best peer, asks another when that one is
// late, does not have it, fails or lies, and looks for more peers when it runs
// out of them, until the time for finding the chunk is over.
func (x *fetch) run(ctx context.Context) (chunk.Packed, []byte, error) {
	defer x.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		wake := x.step(ctx, now)
		if x.over(now) {
			x.s.peers.countNotFound()
			return chunk.Packed{}, nil, x.s.notFound(x.f.id, x.asked)
		}
		timer.Reset(max(wake.Sub(now), time.Millisecond))
		select {
		case a := <-x.answers:
			if x.take(a) {
				return a.packed, a.plain, nil
			}
		case <-x.f.news:
		case <-timer.C:
		case <-ctx.Done():
			return chunk.Packed{}, nil, fmt.Errorf("fetch %s: %w", x.f.id, ctx.Err())
		}
	}
}

// stop ends what is still asked for and watched.
func (x *fetch) stop() {
	now := time.Now()
	for p, a := range x.active {
		a.cancel()
		x.s.peers.gaveUp(p, a.class, now.Sub(a.began), now.After(x.lateAt(p, a, now)), now)
	}
	for _, id := range x.watched {
		x.s.providers.unwatch(id, x.f.news)
	}
}

// over reports whether the time for finding the chunk has passed. A peer that
// is being asked is waited for longer: it is cut short when it stalls.
func (x *fetch) over(now time.Time) bool {
	passed := now.Sub(x.began)
	return passed >= x.s.cfg.FindTimeout && len(x.active) == 0 || passed >= 6*x.s.cfg.FindTimeout
}

// step does what is to be done now and returns when to look again at the
// latest.
func (x *fetch) step(ctx context.Context, now time.Time) (wake time.Time) {
	class, roots, hinted := x.s.wants(x.f)
	x.class = class
	x.upgrade(class)
	x.yield(roots, now)
	wake = x.cutStalled(now)
	limit := maxActiveBulk
	if class <= Readahead {
		limit = maxActiveRead
	}
	x.hedge(now, limit)
	found := now.Sub(x.began) < x.s.cfg.FindTimeout
	for found && len(x.active) < x.limit {
		p, again, ok := x.choose(now, roots, hinted)
		wake = earliest(wake, again)
		if !ok {
			break
		}
		x.start(ctx, p, class, roots, now)
	}
	if len(x.active) == 0 {
		wake = earliest(wake, x.began.Add(x.s.cfg.FindTimeout))
	}
	return earliest(wake, x.hedgeAt)
}

// hedge allows one more peer to be asked when all that are being asked are
// late.
func (x *fetch) hedge(now time.Time, limit int) {
	if x.hedgeAt.IsZero() || now.Before(x.hedgeAt) {
		return
	}
	x.hedgeAt = time.Time{}
	var late time.Time
	for p, a := range x.active {
		late = latest(late, x.lateAt(p, a, now))
	}
	if now.Before(late) {
		x.hedgeAt = late
		return
	}
	x.limit = min(x.limit+1, limit)
	x.hedged = true
}

// lateAt is when the answer to a is late, by what is known now of the peer. One
// whose bytes come gets more time, within bounds: a large chunk over a slow link
// may take longer than the first byte of an answer should. In bulk a peer that
// keeps answering other requests is not late: its link is full, and asking
// somebody else would only fill another.
func (x *fetch) lateAt(p peer.ID, a *ask, now time.Time) time.Time {
	delay := hedgeDelay(a.class, x.s.peers.expected(p, a.class, now))
	late := a.began.Add(delay)
	if laneOf(a.class) == bulk {
		return latest(late, x.s.peers.silentAt(p, a.class, firstPatience, 0, now))
	}
	if came := x.s.peers.arrivedAt(p, a.class); came.After(a.began) {
		late = latest(late, earliest(came.Add(firstHedge), a.began.Add(trickle*delay)))
	}
	return late
}

// upgrade asks again, among the urgent, for what was asked for in bulk when
// somebody began to wait for it.
func (x *fetch) upgrade(class Class) {
	for p, a := range x.active {
		if class <= Readahead && a.class > Readahead {
			a.cancel()
			delete(x.active, p)
			x.s.peers.gaveUp(p, a.class, 0, false, time.Now())
		}
	}
}

// cutStalled gives up peers that have answered nothing at all for too long. A
// slow peer that answers others of our requests meanwhile is waited for.
func (x *fetch) cutStalled(now time.Time) (wake time.Time) {
	wake = now.Add(pollWait)
	for p, a := range x.active {
		last := latest(a.began, now.Add(-x.s.peers.answerless(p, a.class, now)))
		stalls := last.Add(x.s.cfg.StallTimeout)
		if now.Before(stalls) {
			wake = earliest(wake, stalls)
			continue
		}
		a.cancel()
		delete(x.active, p) // its answer will find nobody
		x.s.peers.failed(p, a.class, exchange.ErrStalled.Error(), now)
		x.note(p, exchange.ErrStalled.Error())
		x.s.asked.add(x.f.id, p, a.class, a.began, now, exchange.ErrStalled)
	}
	return wake
}

// choose returns the best peer to ask now. Otherwise it starts to look for
// more peers and says when one may be usable.
func (x *fetch) choose(now time.Time, roots []chunk.ID, hinted []peer.ID) (best peer.ID, again time.Time, ok bool) {
	// Those that say they hold it, at this site and then elsewhere.
	near, far, doubted := x.s.holding(roots, x.f.id, now)
	var soon time.Time
	if best, soon, ok = x.best(near, now); ok {
		return best, again, true
	}
	again = soon
	if until, waits := x.comes(roots, now); waits && len(x.active) == 0 {
		return "", earliest(again, until), false
	}
	if best, soon, ok = x.best(far, now); ok {
		return best, again, true
	}
	again = earliest(again, soon)
	// Those that were named, by the caller or as providers of the flist.
	named := hinted
	searching := false
	for _, root := range roots {
		peers, running := x.find(root, x.s.cfg.ProviderTTL)
		named = append(named[:len(named):len(named)], peers...)
		searching = searching || running
	}
	named = append(named[:len(named):len(named)], x.s.providers.known(x.f.id)...)
	if best, soon, ok = x.best(named, now); ok {
		return best, again, true
	}
	again = earliest(again, soon)
	// Those that gave us something lately.
	if best, soon, ok = x.best(x.s.peers.recent(now), now); ok {
		return best, again, true
	}
	again = earliest(again, soon)
	// Those that say they hold it but were often wrong.
	if best, soon, ok = x.best(doubted, now); ok {
		return best, again, true
	}
	again = earliest(again, soon)
	if len(x.active) > 0 && !x.hedged {
		return "", again, false
	}
	// Those who announced the chunk itself.
	if searching && now.Sub(x.began) < ownLookupAfter {
		return "", earliest(again, x.began.Add(ownLookupAfter)), false
	}
	for _, root := range roots {
		x.find(root, refreshAfter)
	}
	own, running := x.find(x.f.id, refreshAfter)
	if best, soon, ok = x.best(own, now); ok {
		return best, again, true
	}
	again = earliest(again, soon)
	if running || x.s.cfg.Connected == nil {
		return "", again, false
	}
	// Anybody: news of who has what may not have reached us.
	best, soon, ok = x.best(x.s.cfg.Connected(), now)
	return best, earliest(again, soon), ok
}

// find looks up providers of id and remembers to stop watching in the end.
func (x *fetch) find(id chunk.ID, maxAge time.Duration) ([]peer.ID, bool) {
	peers, running := x.s.providers.find(id, maxAge, x.f.news)
	if running && !slices.Contains(x.watched, id) {
		x.watched = append(x.watched, id)
	}
	return peers, running
}

// best returns the peer that will probably deliver first, and when at the
// earliest one that is not usable now will be.
func (x *fetch) best(peers []peer.ID, now time.Time) (best peer.ID, again time.Time, ok bool) {
	var least float64
	for _, p := range peers {
		if p == x.s.cfg.Self || x.active[p] != nil {
			continue
		}
		if until := x.notYet[p]; now.Before(until) {
			again = earliest(again, until)
			continue
		}
		c := x.s.peers.consider(p, x.f.id, x.class, now)
		if !c.usable {
			again = earliest(again, c.until)
			continue
		}
		// Peers that are about as good share the work.
		if cost := c.cost * (0.9 + 0.2*rand.Float64()); !ok || cost < least {
			best, least, ok = p, cost, true
		}
	}
	return best, again, ok
}

// start asks p.
func (x *fetch) start(ctx context.Context, p peer.ID, class Class, roots []chunk.ID, now time.Time) {
	ctx, cancel := context.WithCancel(ctx)
	expected := x.s.peers.begin(p, class, now)
	a := &ask{class: class, began: now, far: x.s.brings(roots, x.f.id, p), cancel: cancel}
	if x.hedged && len(x.active) > 0 {
		x.s.peers.countHedge()
	}
	x.active[p] = a
	x.hedgeAt = now.Add(hedgeDelay(class, expected))
	id, answers, s, book := x.f.id, x.answers, x.s, x.s.peers
	ok := x.s.spawn(func(context.Context) {
		defer cancel()
		r := answer{peer: p, ask: a}
		if r.packed, r.err = s.ask(ctx, p, id, class); r.err == nil {
			r.packed.ID = id
			r.plain, r.err = r.packed.Open()
		}
		r.at = time.Now()
		if ctx.Err() == nil {
			select {
			case answers <- r:
				return
			case <-ctx.Done():
			}
		}
		if r.err == nil { // nobody waits for it
			book.discarded(len(r.packed.Bytes))
		}
	})
	if !ok {
		cancel()
	}
}

// take notes an answer and reports whether it is the chunk.
func (x *fetch) take(r answer) bool {
	a := x.active[r.peer]
	if a == nil || a != r.ask { // given up before
		if r.err == nil {
			x.s.peers.discarded(len(r.packed.Bytes))
		}
		return false
	}
	delete(x.active, r.peer)
	book, now := x.s.peers, r.at
	x.s.asked.add(x.f.id, r.peer, a.class, a.began, now, r.err)
	var corrupt *chunk.CorruptError
	var broken *exchange.ProtocolError
	switch {
	case r.err == nil:
		book.delivered(r.peer, a.class, len(r.packed.Bytes), now.Sub(a.began), now)
		x.s.cfg.Download.Spend(len(r.packed.Bytes), laneOf(a.class) == urgent)
		return true
	case errors.As(r.err, &corrupt), errors.As(r.err, &broken):
		book.lied(r.peer, a.class, r.err.Error(), now)
		x.s.noteWrongBytes(r.peer, x.f.id, r.err)
	case errors.Is(r.err, chunk.ErrNotFound):
		book.missed(r.peer, a.class, x.f.id, now, now.Add(x.s.cfg.MissingTTL))
		_, roots, _ := x.s.wants(x.f)
		x.s.missedClaim(roots, r.peer, x.f.id, now)
	case errors.Is(r.err, exchange.ErrBusy):
		book.busy(r.peer, a.class, now)
		x.notYet[r.peer] = now.Add(min(busyWait<<min(x.busy[r.peer], 6), maxBusyWait))
		x.busy[r.peer]++
	default:
		book.failed(r.peer, a.class, r.err.Error(), now)
		x.s.cfg.Log.Debug("peer failed", "peer", r.peer, "chunk", x.f.id, "err", r.err)
	}
	x.note(r.peer, r.err.Error())
	return false
}

// note remembers the last answer of a peer, for the error.
func (x *fetch) note(p peer.ID, text string) {
	if len(text) > 300 {
		text = text[:300] + "..."
	}
	for i := range x.asked {
		if x.asked[i].Peer == p {
			x.asked = append(x.asked[:i], x.asked[i+1:]...)
			break
		}
	}
	if len(x.asked) < 64 {
		x.asked = append(x.asked, AskedPeer{p, text})
	}
}

// hedgeDelay is how long a chunk that should take expected is waited for
// before another peer is asked as well.
func hedgeDelay(class Class, expected time.Duration) time.Duration {
	if laneOf(class) == urgent && expected <= assumedTime {
		return firstHedge
	}
	if laneOf(class) == urgent {
		return max(min(3*expected, 2*time.Second), 3*expected/2, 150*time.Millisecond)
	}
	return max(4*expected, minPatience)
}

// earliest returns the earlier of two times, of which zero means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
