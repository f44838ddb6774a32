package swarm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
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
	jobTick    = 50 * time.Millisecond
	lookAround = 2 * time.Second // between searches for more peers
	aloneAfter = 2 * time.Second // a chunk no member holds is searched for by itself
	stuckAfter = 5 * time.Second // without any chunk, all are
	maxAlone   = 32              // chunks searched for by themselves at a time
	// maxAloneHeld is the same for chunks members hold, when nothing comes: all
	// nodes of a site that was cut off would otherwise fetch the same ones.
	maxAloneHeld = 2
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
	lateAt    time.Time            // when dropLate and searchAlone last looked
	alone     int                  // searched for by themselves now
	tries     map[uint32]time.Time // when a chunk was first not found
	claimTime time.Duration        // the longest it lately took to fetch what is left to one node
	lost      []error
	patience  time.Duration
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
	if len(sh.jobs) == 0 {
		j.s.rejoin(sh) // it was told as one that reads, perhaps
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
			j.s.peers.gaveUp(a.peer, j.class, 0, false, time.Now())
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
		j.s.lookAround(j.sh, j.wake)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	j.sh.used = now
	seldom := now.Sub(j.lateAt) >= jobTick/2
	if seldom {
		j.lateAt = now
		j.dropLate(now)
	}
	j.fill(now)
	if seldom { // it looks at all that is wanted
		j.searchAlone(now)
	}
	return j.waiting == 0 && len(j.inflight) == 0 && j.alone == 0 && j.bytes <= 0
}
