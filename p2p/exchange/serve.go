package exchange

import (
	"bufio"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/network"
)

const (
	// readersPerStream is how many chunks of a stream are read from the store
	// at once: while one is written the next is read.
	readersPerStream = 3
	// muxFrame is the most a frame of the multiplexer takes, in bytes.
	muxFrame = 64<<10 - 12
	// writePiece bounds what one write deadline covers, in bytes: whole frames.
	writePiece = 2 * muxFrame
	// limitPiece is what is written at once, in bytes, while there is a limit.
	limitPiece = 16 << 10
)

// answer is a whole frame, or the start of one that packed.Bytes completes.
type answer struct {
	frame []byte
	bytes []byte // of the chunk; nil in other frames
	held  int64  // to give back to Server.reads
	class Class
}

// readChunks answers requests from the store until the queue is closed and
// empty or ctx ends.
func (s *served) readChunks(ctx context.Context) {
	for {
		r, ok := s.queue.pop(ctx)
		if !ok {
			return
		}
		a, err := s.answer(ctx, r)
		if err != nil {
			return // only when ctx ended
		}
		select {
		case s.out <- a:
		case <-ctx.Done():
			s.server.reads.giveBack(&s.guest.reads, a.held)
			return
		}
	}
}

// answer reads the chunk r asks for, when it is its turn. It fails only when
// ctx ends.
func (s *served) answer(ctx context.Context, r serveRequest) (answer, error) {
	turns, account := s.server.reads, &s.guest.reads
	if err := turns.take(ctx, account, r.class, chunk.MaxSize); err != nil {
		return answer{}, err
	}
	packed, err := s.server.store.GetPacked(ctx, r.chunk)
	if ctx.Err() != nil || err != nil || len(packed.Bytes) > chunk.MaxSize {
		turns.done(account, chunk.MaxSize, 0)
		if ctx.Err() != nil {
			return answer{}, ctx.Err()
		}
		return s.lacks(r, err), nil
	}
	held := int64(len(packed.Bytes))
	turns.done(account, chunk.MaxSize, held)
	return answer{frame: appendChunkHeader(nil, r.id, packed), bytes: packed.Bytes, held: held, class: r.class}, nil
}

// lacks returns the answer to a request for a chunk the store could not give.
func (s *served) lacks(r serveRequest, err error) answer {
	if errors.Is(err, chunk.ErrNotFound) {
		s.empty(1) // paid for by what is read next
		s.server.count(s.guest, func(c *ServerStats) { c.Missing++ })
		return answer{frame: appendIDs(nil, frameMissing, r.id)}
	}
	s.server.cfg.Log.Warn("chunk cannot be served", "chunk", r.chunk, "peer", s.guest.id, "err", err)
	s.server.count(s.guest, func(c *ServerStats) { c.Refused++ })
	return answer{frame: appendRefused(nil, refusedError, r.id)}
}

// writers are of one frame of the multiplexer each, so that what is written
// fills frames. Streams that write nothing have none.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, muxFrame) }}

func putWriter(w *bufio.Writer) {
	w.Reset(nil)
	writers.Put(w)
}

// writeAnswers writes what comes from s.out until it is closed, and flushes
// whenever nothing more is waiting. After a failed write it only drains.
func (s *served) writeAnswers(ctx context.Context) error {
	out := deadlineWriter{s.stream, s.server.cfg.WriteTimeout}
	var w *bufio.Writer // nil while nothing is in it
	var failed error
	for a := range s.out {
		if failed == nil {
			if w == nil {
				w = writers.Get().(*bufio.Writer)
				w.Reset(out)
			}
			if failed = s.writeAnswer(ctx, w, a); failed == nil && len(s.out) == 0 {
				failed = w.Flush()
				putWriter(w)
				w = nil
			}
			if failed != nil {
				_ = s.stream.Reset() // ends reading too
			}
		}
		s.server.reads.giveBack(&s.guest.reads, a.held)
		if failed == nil && a.bytes != nil {
			s.active.Store(time.Now().UnixNano())
			s.server.count(s.guest, func(c *ServerStats) {
				c.Chunks++
				c.BytesSent += uint64(len(a.bytes))
			})
			s.server.cfg.Recycle(a.bytes)
		}
	}
	if w != nil {
		if failed == nil {
			failed = w.Flush()
		}
		putWriter(w)
	}
	if failed = stalled(failed); errors.Is(failed, ErrStalled) {
		s.server.offends(s.guest, offence.Stalled, "asks and does not take the answers")
	}
	return failed
}

// writeAnswer writes a as fast as the limit lets it, in pieces, so that the
// peer does not take the node for stalled.
func (s *served) writeAnswer(ctx context.Context, w *bufio.Writer, a answer) error {
	if _, err := w.Write(a.frame); err != nil {
		return err
	}
	for b := a.bytes; len(b) > 0; {
		n := len(b)
		if rate := s.server.cfg.Upload.Rate(); rate > 0 {
			n = min(n, limitPiece)
			if err := s.waitToSend(ctx, n, a.class, rate); err != nil {
				return err
			}
		}
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// waitToSend returns when it is the peer's turn to be sent n bytes and the
// limit allows them. Bulk that waited for as long as blindTurn pieces take is
// sent as if it was urgent.
func (s *served) waitToSend(ctx context.Context, n int, class Class, rate int64) error {
	lane := laneOf(class)
	turns, account, limit := s.server.sends[lane], &s.guest.sends[lane], s.server.cfg.Upload
	if err := turns.take(ctx, account, class, int64(n)); err != nil {
		return err
	}
	defer turns.done(account, int64(n), int64(n))
	urgent := lane == laneExpress
	if !urgent {
		patience := blindTurn * time.Second * limitPiece / time.Duration(rate)
		bulk, cancel := context.WithTimeout(ctx, patience)
		urgent = limit.Wait(bulk, false) != nil
		cancel()
	}
	if urgent { // bulk that was let go must not wait again: others have spent meanwhile
		if err := limit.Wait(ctx, true); err != nil {
			return err
		}
	}
	limit.Spend(n, urgent)
	return nil
}

// deadlineWriter writes in pieces, each of which must be taken within timeout.
type deadlineWriter struct {
	st      network.Stream
	timeout time.Duration
}

func (w deadlineWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if err := w.st.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
			return n, err
		}
		m, err := w.st.Write(b[:min(len(b), writePiece)])
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

// serveRequest is one chunk asked for.
type serveRequest struct {
	id    uint32
	chunk chunk.ID
	class Class
}

// serveQueue holds the requests of one stream, most urgent first.
type serveQueue struct {
	max    int
	mine   *atomic.Int64 // requests waiting on all streams of the peer
	most   int64         // of those
	at     *atomic.Int64 // requests waiting of all at its address
	all    *backlog
	mu     sync.Mutex
	closed bool
	n      int
	queues [numClasses][]serveRequest
	ready  chan struct{} // one token while there may be something to pop
}

// backlog is how many requests wait, of all peers, and how many may.
type backlog struct {
	n    atomic.Int64
	most int64
}

func newServeQueue(max, perPeer int, mine, at *atomic.Int64, all *backlog) *serveQueue {
	return &serveQueue{max: max, most: int64(perPeer), mine: mine, at: at, all: all, ready: make(chan struct{}, 1)}
}

// full reports whether no more of the peer may wait: the peers at one address
// have half of the places when nobody else has any, less when others do, and
// each a few in any case. q.mu is held.
func (q *serveQueue) full() bool {
	mine := q.mine.Load()
	return q.n >= q.max || mine >= q.most || mine >= freeQueue && q.at.Load() >= q.all.most-q.all.n.Load()
}

// count adds n to how many wait. q.mu is held.
func (q *serveQueue) count(n int) {
	q.n += n
	q.mine.Add(int64(n))
	q.at.Add(int64(n))
	q.all.n.Add(int64(n))
}

// push queues what w asks for and returns the request IDs there is no room
// for.
func (q *serveQueue) push(w want) (refused []uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, id := range w.ids {
		r := serveRequest{id: w.first + uint32(i), chunk: id, class: w.class}
		if q.full() {
			refused = append(refused, r.id)
			continue
		}
		q.queues[w.class] = append(q.queues[w.class], r)
		q.count(1)
	}
	q.wake()
	return refused
}

// cancel takes requests out of the queue and returns those it found.
func (q *serveQueue) cancel(ids []uint32) (gone []uint32) {
	drop := make(map[uint32]bool, len(ids))
	for _, id := range ids {
		drop[id] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for c, queue := range q.queues {
		kept := queue[:0]
		for _, r := range queue {
			if drop[r.id] {
				gone = append(gone, r.id)
			} else {
				kept = append(kept, r)
			}
		}
		q.queues[c] = kept
	}
	q.count(-len(gone))
	return gone
}

// pop waits for the most urgent request. It reports false when q is closed
// and empty, or ctx ended.
func (q *serveQueue) pop(ctx context.Context) (serveRequest, bool) {
	for {
		r, ok, closed := q.tryPop()
		if ok || closed {
			return r, ok
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			return r, false
		}
	}
}

func (q *serveQueue) tryPop() (r serveRequest, ok, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for c, queue := range q.queues {
		if len(queue) == 0 {
			continue
		}
		r = queue[0]
		if q.queues[c] = queue[1:]; len(queue) == 1 {
			q.queues[c] = nil // let go of what was read
		}
		q.count(-1)
		if q.n > 0 || q.closed {
			q.wake()
		}
		return r, true, false
	}
	if q.closed {
		q.wake() // for the next reader
	}
	return r, false, q.closed
}

func (q *serveQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

// drop gives up what is still queued.
func (q *serveQueue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count(-q.n)
	clear(q.queues[:])
}

func (q *serveQueue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}
