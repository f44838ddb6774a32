package exchange

import (
	"bufio"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// readersPerStream is how many chunks of a stream are read from the store
	// at once: while one is written the next is read.
	readersPerStream = 3
	// writePiece bounds what one write deadline covers, in bytes.
	writePiece = 128 << 10
	// limitPiece is what is written at once, in bytes, while there is a limit.
	limitPiece = 16 << 10
)

// answer is a whole frame, or the start of one that packed.Bytes completes.
type answer struct {
	frame []byte
	bytes []byte // of the chunk; nil in other frames
	held  int64  // to give back to Server.bytes
	class Class
}

// readChunks answers requests of q from the store until q is closed and empty
// or ctx ends.
func (s *Server) readChunks(ctx context.Context, p peer.ID, q *serveQueue, out chan<- answer) {
	for {
		r, ok := q.pop(ctx)
		if !ok {
			return
		}
		a, err := s.answer(ctx, p, r)
		if err != nil {
			return // only when ctx ended
		}
		select {
		case out <- a:
		case <-ctx.Done():
			s.bytes.Release(a.held)
			return
		}
	}
}

// answer reads the chunk r asks for. It fails only when ctx ends.
func (s *Server) answer(ctx context.Context, p peer.ID, r serveRequest) (answer, error) {
	if err := s.reads.Acquire(ctx, 1); err != nil {
		return answer{}, err
	}
	packed, err := s.store.GetPacked(ctx, r.chunk)
	s.reads.Release(1)
	switch {
	case ctx.Err() != nil:
		return answer{}, ctx.Err()
	case errors.Is(err, chunk.ErrNotFound):
		s.count(p, func(c *ServerStats) { c.Missing++ })
		return answer{frame: appendIDs(nil, frameMissing, r.id)}, nil
	case err != nil || len(packed.Bytes) > chunk.MaxSize:
		s.cfg.Log.Warn("chunk cannot be served", "chunk", r.chunk, "peer", p, "err", err)
		s.count(p, func(c *ServerStats) { c.Refused++ })
		return answer{frame: appendRefused(nil, refusedError, r.id)}, nil
	}
	held := min(int64(len(packed.Bytes)), s.cfg.MaxBytes)
	if err := s.bytes.Acquire(ctx, held); err != nil {
		return answer{}, err
	}
	return answer{frame: appendChunkHeader(nil, r.id, packed), bytes: packed.Bytes, held: held, class: r.class}, nil
}

// writeAnswers writes what comes from out until it is closed, and flushes
// whenever nothing more is waiting. After a failed write it only drains.
func (s *Server) writeAnswers(ctx context.Context, st network.Stream, out <-chan answer) error {
	w := bufio.NewWriterSize(deadlineWriter{st, s.cfg.WriteTimeout}, 16<<10)
	p := st.Conn().RemotePeer()
	var failed error
	for a := range out {
		if failed == nil {
			if failed = s.writeAnswer(ctx, w, a); failed == nil && len(out) == 0 {
				failed = w.Flush()
			}
			if failed != nil {
				_ = st.Reset() // ends reading too
			}
		}
		s.bytes.Release(a.held)
		if failed == nil && a.bytes != nil {
			s.count(p, func(c *ServerStats) {
				c.Chunks++
				c.BytesSent += uint64(len(a.bytes))
			})
			s.cfg.Recycle(a.bytes)
		}
	}
	if failed != nil {
		return failed
	}
	return w.Flush()
}

// writeAnswer writes a as fast as the limit lets it, in pieces, so that the
// peer does not take the node for stalled.
func (s *Server) writeAnswer(ctx context.Context, w *bufio.Writer, a answer) error {
	if _, err := w.Write(a.frame); err != nil {
		return err
	}
	urgent := laneOf(a.class) == laneExpress
	for b := a.bytes; len(b) > 0; {
		n := len(b)
		if s.cfg.Upload.Rate() > 0 {
			n = min(n, limitPiece)
			if err := s.cfg.Upload.Wait(ctx, urgent); err != nil {
				return err
			}
			s.cfg.Upload.Spend(n, urgent)
		}
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
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
	mu     sync.Mutex
	closed bool
	n      int
	queues [numClasses][]serveRequest
	ready  chan struct{} // one token while there may be something to pop
}

func newServeQueue(max int) *serveQueue {
	return &serveQueue{max: max, ready: make(chan struct{}, 1)}
}

// push queues what w asks for and returns the request IDs there is no room
// for.
func (q *serveQueue) push(w want) (refused []uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, id := range w.ids {
		r := serveRequest{id: w.first + uint32(i), chunk: id, class: w.class}
		if q.n >= q.max {
			refused = append(refused, r.id)
			continue
		}
		q.queues[w.class] = append(q.queues[w.class], r)
		q.n++
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
	q.n -= len(gone)
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
		q.n--
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

func (q *serveQueue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}
