package swarm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	firstWindow = 256 << 10 // bytes in flight to a peer not measured yet
	minWindow   = 128 << 10
	maxWindow   = 8 << 20
	maxInFlight = 48 << 20 // bytes in flight or being kept, of one job
	// windowTime is how much of a peer's throughput is kept in flight.
	windowTime = 300 * time.Millisecond
	rateTime   = 100 * time.Millisecond // a throughput is measured over so long
	jobTick    = 100 * time.Millisecond
	lookAround = 2 * time.Second // between searches for more peers
	aloneAfter = 2 * time.Second // a chunk no member holds is searched for by itself
	stuckAfter = 5 * time.Second // without any chunk, all are
	lateAfter  = time.Second     // without an answer a peer is late
	maxAlone   = 32              // chunks searched for by themselves at a time
)

// ErrNotShared says that an flist is not shared, so that it is not known which
// chunks it has.
var ErrNotShared = errors.New("flist is not shared")

// job is one Download. shares.mu guards it, but for the fields said to be its
// loop's.
type job struct {
	s       *Swarm
	sh      *share
	class   Class
	deliver func(chunk.Packed, []byte) error
	ctx     context.Context // of the requests; ends with the job
	cancel  context.CancelCauseFunc
	wake    chan struct{} // one token when there may be something to do
	work    sync.WaitGroup

	group0    []peer.ID // the group owners was computed for
	owners    []uint8   // by place: 0 not known, 1 another's to fetch, 2 mine
	own       bool      // a chunk of mine waited at ownAt
	ownAt     time.Time
	pending   bitmap // wanted, not asked for
	waiting   int    // how many
	inflight  map[uint32][]*jobAsk
	peers     map[peer.ID]*jobPeer
	bytes     int // in flight or being kept, estimated
	chunkSize int // smoothed, packed
	extra     int // chunks asked for twice
	began     time.Time
	lastCame  time.Time
	looked    time.Time
	lateAt    time.Time            // when dropLate last looked
	alone     int                  // searched for by themselves now
	tries     map[uint32]time.Time // when a chunk was first not found
	lost      []error
	patience  time.Duration
}

// jobPeer is one peer's part in a job.
type jobPeer struct {
	asks    int
	bytes   int // in flight, estimated
	window  int
	rate    float64 // bytes per second
	since   time.Time
	got     int // bytes since
	last    time.Time
	late    bool
	blocked time.Time // not asked before
}

// jobAsk is one request to one peer.
type jobAsk struct {
	place  uint32
	peer   peer.ID
	size   int // estimated
	began  time.Time
	cancel context.CancelFunc
}

// Download fetches the chunks of a shared flist (Share) that are wanted and
// not held, from all who hold any: the rarest first, so that those who
// download together fetch different ones and trade them. What one peer alone
// holds is fetched from it by one of them, the one rendezvous hashing names.
//
// It gives each chunk to deliver, from several goroutines at once, which must
// not keep the bytes after it returns; an error of deliver ends it. A chunk nobody gives is searched for again until patience
// has passed without any chunk coming; the error then joins *NotFoundErrors,
// when all others are here.
func (s *Swarm) Download(ctx context.Context, root chunk.ID, wanted []uint32, class Class, patience time.Duration, deliver func(chunk.Packed, []byte) error) error {
	jctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	now := time.Now()
	j := &job{
		s: s, class: class, deliver: deliver, ctx: jctx, cancel: cancel, wake: make(chan struct{}, 1),
		inflight: map[uint32][]*jobAsk{}, peers: map[peer.ID]*jobPeer{}, chunkSize: 128 << 10,
		began: now, lastCame: now, tries: map[uint32]time.Time{}, patience: patience,
	}
	if err := j.begin(root, wanted); err != nil {
		return err
	}
	defer j.end()
	tick := time.NewTicker(jobTick)
	defer tick.Stop()
	for !j.step(time.Now()) {
		select {
		case <-j.wake:
		case <-tick.C:
		case <-jctx.Done():
			return context.Cause(jctx)
		}
	}
	if err := context.Cause(jctx); err != nil {
		return err
	}
	return errors.Join(j.lost...)
}

func (j *job) begin(root chunk.ID, wanted []uint32) error {
	h := j.s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	sh := h.all[root]
	if sh == nil {
		return fmt.Errorf("fetch flist %s: %w", root, ErrNotShared)
	}
	j.sh = sh
	j.pending = newBitmap(len(sh.table.IDs))
	for _, i := range wanted {
		if int(i) < len(sh.table.IDs) && !sh.have.has(i) && !j.pending.has(i) {
			j.pending.set(i)
			j.waiting++
		}
	}
	sh.jobs[j] = struct{}{}
	return nil
}

// end takes the job away and waits for its goroutines.
func (j *job) end() {
	j.cancel(nil)
	j.s.shares.mu.Lock()
	delete(j.sh.jobs, j)
	for _, asks := range j.inflight {
		for _, a := range asks {
			j.s.peers.gaveUp(a.peer, j.class, false)
		}
	}
	clear(j.inflight)
	j.s.shares.mu.Unlock()
	j.work.Wait()
}

// step does what is to be done now. It reports whether the job is done.
func (j *job) step(now time.Time) bool {
	h := j.s.shares
	var around bool
	func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if around = now.Sub(j.looked) >= lookAround; around {
			j.looked = now
		}
	}()
	if around {
		j.lookAround()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	j.sh.used = now
	if now.Sub(j.lateAt) >= jobTick/4 {
		j.lateAt = now
		j.dropLate(now)
	}
	j.fill(now)
	j.searchAlone(now)
	return j.waiting == 0 && len(j.inflight) == 0 && j.alone == 0 && j.bytes <= 0
}

// lookAround tells connected peers and providers of the flist that this node
// shares it; those who share it too will answer with what they hold.
func (j *job) lookAround() {
	var peers []peer.ID
	if j.s.cfg.Connected != nil {
		peers = j.s.cfg.Connected()
	}
	found, _ := j.s.providers.find(j.sh.table.Root, j.s.cfg.ProviderTTL, j.wake)
	peers = append(append([]peer.ID(nil), found...), peers...)
	h := j.s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range peers {
		j.s.tell(j.sh, p)
	}
}

// dropLate gives to others what is in flight to peers that answer nothing.
func (j *job) dropLate(now time.Time) {
	for i, asks := range j.inflight {
		late := 0
		for _, a := range asks {
			jp := j.peers[a.peer]
			last := latest(jp.last, a.began)
			expected := time.Duration(0)
			if jp.rate > 0 {
				expected = time.Duration(4 * float64(jp.bytes) / jp.rate * float64(time.Second))
			}
			patience := lateAfter
			if m := j.sh.members[a.peer]; m != nil && !m.near {
				patience = 3 * lateAfter
			}
			if now.Sub(last) < max(patience, min(expected, j.s.cfg.StallTimeout)) {
				continue
			}
			late++
			if !jp.late {
				jp.late = true
				jp.blocked = now.Add(lateAfter)
				jp.window = minWindow
			}
			if now.Sub(last) >= j.s.cfg.StallTimeout {
				j.giveUp(i, a)
				j.s.peers.failed(a.peer, j.class, exchange.ErrStalled.Error(), now)
			}
		}
		if late == len(asks) && late <= maxActiveBulk && !j.pending.has(i) && !j.sh.have.has(i) {
			j.pending.set(i)
			j.waiting++
		}
	}
}

// giveUp ends a request, without the peer's book being told.
func (j *job) giveUp(i uint32, a *jobAsk) {
	a.cancel()
	j.forget(i, a)
	jp := j.peers[a.peer]
	jp.asks--
	jp.bytes -= a.size
	j.bytes -= a.size
}

// forget takes a out of what is in flight. It reports whether it was there.
func (j *job) forget(i uint32, a *jobAsk) bool {
	asks := j.inflight[i]
	for k, b := range asks {
		if a == b {
			if len(asks) == 1 {
				delete(j.inflight, i)
			} else {
				j.inflight[i] = append(asks[:k:k], asks[k+1:]...)
			}
			return true
		}
	}
	return false
}

// came notes that a chunk is held now, whoever fetched it. Requests for it that
// are still in flight are given up.
func (j *job) came(i uint32) {
	if j.pending.has(i) {
		j.pending.clear(i)
		j.waiting--
	}
	for _, a := range append([]*jobAsk(nil), j.inflight[i]...) {
		j.giveUp(i, a)
		j.s.peers.gaveUp(a.peer, j.class, false)
	}
	poke(j.wake)
}

// start asks p for chunk i.
func (j *job) start(p peer.ID, i uint32, now time.Time) {
	if j.pending.has(i) {
		j.pending.clear(i)
		j.waiting--
	}
	ctx, cancel := context.WithCancel(j.ctx)
	a := &jobAsk{place: i, peer: p, size: j.chunkSize, began: now, cancel: cancel}
	j.inflight[i] = append(j.inflight[i], a)
	jp := j.peers[p]
	if jp.asks == 0 {
		jp.since, jp.got = now, 0
	}
	jp.asks++
	jp.bytes += a.size
	j.bytes += a.size
	j.s.peers.begin(p, j.class, now)
	id := j.sh.table.IDs[i]
	j.work.Go(func() {
		defer cancel()
		packed, err := j.s.cfg.Asker.Get(ctx, p, id, j.class)
		at := time.Now()
		var plain []byte
		if err == nil {
			defer j.s.cfg.Recycle(packed.Bytes)
			packed.ID = id
			plain, err = packed.Open()
		}
		if !j.answered(a, packed, err, at) {
			return
		}
		if err := j.deliver(packed, plain); err != nil {
			j.cancel(fmt.Errorf("keep %s: %w", id, err))
		} else {
			j.s.Came(id)
		}
		j.s.shares.mu.Lock()
		j.bytes -= a.size
		j.s.shares.mu.Unlock()
		poke(j.wake)
	})
}

// answered notes how a request ended. It reports whether the chunk is to be
// delivered; its bytes then count as in flight until it was.
func (j *job) answered(a *jobAsk, packed chunk.Packed, err error, at time.Time) bool {
	h := j.s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	if !j.forget(a.place, a) {
		return false // given up before
	}
	defer poke(j.wake)
	jp := j.peers[a.peer]
	jp.asks--
	jp.bytes -= a.size
	m := j.sh.members[a.peer]
	if err != nil {
		j.bytes -= a.size
		j.refused(a, jp, m, err, at)
		if !j.sh.have.has(a.place) && len(j.inflight[a.place]) == 0 && !j.pending.has(a.place) {
			j.pending.set(a.place)
			j.waiting++
		}
		return false
	}
	n := len(packed.Bytes)
	j.s.peers.delivered(a.peer, j.class, n, at.Sub(a.began), at)
	if m != nil {
		m.good++
	}
	j.chunkSize += (n - j.chunkSize) / 8
	j.chunkSize = max(j.chunkSize, 4<<10)
	jp.measure(n, at)
	j.lastCame = at
	for _, b := range append([]*jobAsk(nil), j.inflight[a.place]...) { // the others lost
		j.giveUp(a.place, b)
		j.s.peers.gaveUp(b.peer, j.class, false)
	}
	if j.pending.has(a.place) {
		j.pending.clear(a.place)
		j.waiting--
	}
	return true
}

// measure sizes the window by the throughput.
func (jp *jobPeer) measure(n int, at time.Time) {
	jp.last, jp.late = at, false
	jp.got += n
	elapsed := at.Sub(jp.since)
	if elapsed < rateTime && jp.got < jp.window {
		return
	}
	rate := float64(jp.got) / max(elapsed, time.Millisecond).Seconds()
	if jp.rate == 0 {
		jp.rate = rate
	}
	smooth(&jp.rate, rate)
	jp.window = min(max(int(jp.rate*windowTime.Seconds()), minWindow), maxWindow)
	jp.since, jp.got = at, 0
}

// refused notes a request that failed.
func (j *job) refused(a *jobAsk, jp *jobPeer, m *member, err error, at time.Time) {
	var corrupt *chunk.CorruptError
	var broken *exchange.ProtocolError
	book := j.s.peers
	switch {
	case j.ctx.Err() != nil:
		book.gaveUp(a.peer, j.class, false)
	case errors.As(err, &corrupt), errors.As(err, &broken):
		book.lied(a.peer, j.class, err.Error(), at)
		j.s.cfg.Log.Warn("peer sent wrong bytes, not asked for a while", "peer", a.peer, "chunk", j.sh.table.IDs[a.place], "err", err)
	case errors.Is(err, chunk.ErrNotFound):
		book.missed(a.peer, j.class, j.sh.table.IDs[a.place], at, at.Add(j.s.cfg.MissingTTL))
		j.claimed(a, m, at)
	case errors.Is(err, exchange.ErrBusy):
		book.busy(a.peer, j.class, at)
		jp.blocked = at.Add(busyWait)
		jp.window = max(jp.window/2, minWindow)
	default:
		book.failed(a.peer, j.class, err.Error(), at)
		jp.window = minWindow
	}
}

// claimed notes that a member does not have what it said it had. One that does
// so often is no longer believed.
func (j *job) claimed(a *jobAsk, m *member, at time.Time) {
	if m == nil || !m.have.has(a.place) {
		return
	}
	m.have.clear(a.place)
	m.n--
	j.sh.count(m, a.place, minus)
	if m.wrong++; m.wrong >= falseLimit && m.wrong > m.good {
		j.s.cfg.Log.Warn("peer claims chunks it does not have, its bitmap is not believed", "peer", a.peer,
			"flist", j.sh.table.Root, "wrong", m.wrong, "good", m.good)
		j.s.peers.suspect(a.peer, "claimed chunks it did not have", at)
		j.sh.remove(a.peer)
	}
}

// searchAlone looks for chunks no member holds, one by one, by the providers
// of the flist and of the chunk itself; and for any when nothing comes.
func (j *job) searchAlone(now time.Time) {
	wait := aloneAfter
	if len(j.sh.members) == 0 {
		wait /= 4
	}
	if now.Sub(j.began) < wait || j.waiting == 0 {
		return
	}
	stuck := now.Sub(j.lastCame) >= stuckAfter
	for i := range j.pending.each {
		if j.alone >= maxAlone {
			return
		}
		if j.sh.holders[i] > 0 && !stuck {
			continue
		}
		j.pending.clear(i)
		j.waiting--
		j.alone++
		id, root := j.sh.table.IDs[i], j.sh.table.Root
		j.work.Go(func() {
			packed, plain, err := j.s.GetPacked(j.ctx, id, j.class, Hint{Root: root})
			if err == nil {
				if err := j.deliver(packed, plain); err != nil {
					j.cancel(fmt.Errorf("keep %s: %w", id, err))
				}
			}
			j.foundAlone(i, err, time.Now())
		})
	}
}

func (j *job) foundAlone(i uint32, err error, now time.Time) {
	h := j.s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	defer poke(j.wake)
	j.alone--
	var gone *NotFoundError
	switch {
	case err == nil:
		j.lastCame = now
		return
	case !errors.As(err, &gone):
		j.cancel(err)
		return
	}
	first, ok := j.tries[i]
	if !ok {
		first = now.Add(-j.s.cfg.FindTimeout)
		j.tries[i] = first
	}
	if now.Sub(latest(first, j.lastCame))+j.s.cfg.FindTimeout/2 < j.patience {
		j.pending.set(i)
		j.waiting++
		return
	}
	if j.lost = append(j.lost, err); len(j.lost) >= maxLost {
		j.cancel(errors.Join(j.lost...))
	}
}
