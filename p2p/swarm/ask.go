package swarm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// jobPeer is one peer's part in a job.
type jobPeer struct {
	asks    int
	bytes   int // in flight, estimated
	window  int
	rate    float64 // bytes per second
	since   time.Time
	got     int       // bytes since
	late    bool      // it let us wait for too long; until it answers
	probed  bool      // it is late and was asked again since
	strikes int       // times in a row it was late
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
		jp.probed = jp.late
	}
	jp.asks++
	jp.bytes += a.size
	j.bytes += a.size
	j.s.peers.begin(p, j.class, now)
	id := j.sh.table.IDs[i]
	j.work.Go(func() {
		defer cancel()
		packed, err := j.s.ask(ctx, p, id, j.class)
		at := time.Now()
		var plain []byte
		if err == nil {
			defer j.s.cfg.Recycle(packed.Bytes)
			packed.ID = id
			plain, err = packed.Open()
		}
		if !j.answered(a, packed, err, at) {
			if err == nil {
				j.s.peers.discarded(len(packed.Bytes))
			}
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

// ask asks p for a chunk.
func (s *Swarm) ask(ctx context.Context, p peer.ID, id chunk.ID, class Class) (chunk.Packed, error) {
	defer s.asked.asking(id, p, class)()
	return s.cfg.Asker.Get(ctx, p, id, class)
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
	if j.ctx.Err() == nil {
		j.s.asked.add(j.sh.table.IDs[a.place], a.peer, j.class, a.began, at, err)
	}
	defer poke(j.wake)
	jp := j.peers[a.peer]
	jp.asks--
	jp.bytes -= a.size
	if err != nil {
		j.bytes -= a.size
		j.refused(a, jp, err, at)
		if !j.sh.have.has(a.place) && len(j.inflight[a.place]) == 0 && !j.pending.has(a.place) {
			j.pending.set(a.place)
			j.waiting++
		}
		return false
	}
	n := len(packed.Bytes)
	j.s.peers.delivered(a.peer, j.class, n, at.Sub(a.began), at)
	j.s.cfg.Download.Spend(n, false)
	if m := j.sh.members[a.peer]; m != nil {
		j.sh.setAside(m, false)
		if m.seed || !m.near {
			took := at.Sub(a.began)
			j.claimTime = max(took, j.claimTime-(j.claimTime-took)/gapMemory)
		}
	}
	j.chunkSize += (n - j.chunkSize) / 8
	j.chunkSize = max(j.chunkSize, 4<<10)
	jp.measure(n, at)
	j.lastCame = at
	for _, b := range append([]*jobAsk(nil), j.inflight[a.place]...) { // the others lost
		j.giveUp(a.place, b)
		j.s.peers.gaveUp(b.peer, j.class, at.Sub(b.began), false, at)
	}
	if j.pending.has(a.place) {
		j.pending.clear(a.place)
		j.waiting--
	}
	return true
}

// measure sizes the window by the throughput.
func (jp *jobPeer) measure(n int, at time.Time) {
	if jp.late { // it goes on: its window grows from the smallest
		jp.late, jp.probed, jp.strikes, jp.blocked = false, false, 0, time.Time{}
		jp.since, jp.got = at, 0
		return
	}
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
func (j *job) refused(a *jobAsk, jp *jobPeer, err error, at time.Time) {
	var corrupt *chunk.CorruptError
	var broken *exchange.ProtocolError
	book := j.s.peers
	switch {
	case j.ctx.Err() != nil:
		book.gaveUp(a.peer, j.class, 0, false, at)
	case errors.As(err, &corrupt), errors.As(err, &broken):
		book.lied(a.peer, j.class, err.Error(), at)
		j.s.noteWrongBytes(a.peer, j.sh.table.IDs[a.place], err)
	case errors.Is(err, chunk.ErrNotFound):
		book.missed(a.peer, j.class, j.sh.table.IDs[a.place], at, at.Add(j.s.cfg.MissingTTL))
		j.s.claimedWrongly(j.sh, a.peer, a.place, at)
	case errors.Is(err, exchange.ErrBusy):
		book.busy(a.peer, j.class, at)
		jp.blocked = at.Add(busyWait)
		jp.window = max(jp.window/2, minWindow)
	default:
		book.failed(a.peer, j.class, err.Error(), at)
		jp.window = minWindow
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
	now := time.Now()
	for _, a := range append([]*jobAsk(nil), j.inflight[i]...) {
		j.giveUp(i, a)
		j.s.peers.gaveUp(a.peer, j.class, now.Sub(a.began), false, now)
	}
	poke(j.wake)
}
