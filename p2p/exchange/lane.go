package exchange

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/network"
)

// lane is one stream to a peer with the requests that go over it. A lane whose
// stream broke is over; the client makes another.
type lane struct {
	client *Client
	key    laneKey
	stop   context.CancelFunc // ends run

	mu       sync.Mutex
	err      error                  // set once; the lane takes no more requests
	queues   [numClasses][]*request // not yet sent
	inflight map[uint32]*request    // sent, not yet answered (cancelled ones too)
	cancels  []uint32               // sent requests to give up
	next     uint32                 // request ID
	expect   int                    // estimated bytes of one chunk
	wake     chan struct{}          // one token when the writer may have work
	stream   network.Stream         // once open
	progress atomic.Int64           // UnixNano of when the stall time-out was last moved on
	arrived  atomic.Int64           // UnixNano of the last byte read
}

// newLane returns a lane whose run stop ends.
func newLane(c *Client, key laneKey, stop context.CancelFunc) *lane {
	return &lane{
		client: c, key: key, stop: stop,
		inflight: map[uint32]*request{}, expect: 128 << 10, wake: make(chan struct{}, 1),
	}
}

// push queues r. It reports false when the lane is over.
func (l *lane) push(r *request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.queues[r.class] = append(l.queues[r.class], r)
	l.signal()
	return true
}

// cancel gives r up: nobody waits for its result any more.
func (l *lane) cancel(r *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.cancelled = true
	if r.sent && l.inflight[r.id] == r {
		l.cancels = append(l.cancels, r.id)
	}
	select {
	case res := <-r.done: // it came just before
		l.client.discarded.Add(uint64(len(res.packed.Bytes)))
	default:
	}
	l.signal()
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// fail ends the lane and gives err to all its requests. Only the first call
// counts.
func (l *lane) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	for _, queue := range l.queues {
		for _, r := range queue {
			r.done <- result{err: err}
		}
	}
	for _, r := range l.inflight {
		if !r.cancelled {
			r.done <- result{err: err}
		}
	}
	clear(l.queues[:])
	clear(l.inflight)
	l.stop()
}

// run opens the stream and serves the lane until it is over.
func (l *lane) run(ctx context.Context) error {
	defer l.stop()
	dial, cancel := context.WithTimeout(ctx, l.client.cfg.DialTimeout)
	st, err := l.client.host.NewStream(dial, l.key.peer, Protocol)
	cancel()
	if err != nil {
		err = wrapDial(l.key.peer, err)
		l.fail(err)
		return err
	}
	reset := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer reset()
	l.mu.Lock()
	l.stream = st
	l.mu.Unlock()

	var read sync.WaitGroup
	read.Go(func() { l.fail(l.readAnswers(st)) })
	l.fail(l.writeRequests(ctx, st))
	read.Wait()
	_ = st.Reset()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// errIdle ends a lane nobody needed for a while.
var errIdle = errors.New("stream was idle")

// writeRequests sends what is queued, as the window allows, until ctx ends.
func (l *lane) writeRequests(ctx context.Context, st network.Stream) error {
	var buf []byte
	idle := time.NewTimer(l.client.cfg.IdleTimeout)
	defer idle.Stop()
	for {
		buf = l.nextFrames(buf[:0])
		if len(buf) > 0 {
			_ = st.SetWriteDeadline(time.Now().Add(l.client.cfg.StallTimeout))
			if _, err := st.Write(buf); err != nil {
				return stalled(err)
			}
			idle.Reset(l.client.cfg.IdleTimeout)
			continue
		}
		select {
		case <-l.wake:
		case <-idle.C:
			if l.endIfIdle() {
				return errIdle
			}
			idle.Reset(l.client.cfg.IdleTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endIfIdle ends the lane if nothing is queued or in flight, so that no
// request can be lost between looking and ending.
func (l *lane) endIfIdle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.queues {
		if len(q) > 0 {
			return false
		}
	}
	if len(l.inflight) > 0 || l.err != nil {
		return false
	}
	l.err = errIdle
	l.stop()
	return true
}

// nextFrames moves queued requests into flight, up to the window, and appends
// the frames that say so: the cancelled ones first, then one want frame.
func (l *lane) nextFrames(buf []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.cancels) > 0 {
		n := min(len(l.cancels), maxIDs)
		buf = appendIDs(buf, frameCancel, l.cancels[:n]...)
		l.cancels = l.cancels[n:]
	}
	l.cancels = nil
	room := min(max(l.client.cfg.Window/l.expect, 4), l.client.cfg.MaxRequests) - len(l.inflight)
	for class := range l.queues {
		batch := l.takeQueued(class, min(room, maxWant))
		if len(batch) == 0 {
			continue
		}
		l.armRead()
		return l.sendWant(buf, Class(class), batch)
	}
	return buf
}

// takeQueued takes up to n requests of a class out of the queue.
func (l *lane) takeQueued(class, n int) (batch []*request) {
	queue := l.queues[class]
	for len(queue) > 0 && len(batch) < n {
		if r := queue[0]; !r.cancelled {
			batch = append(batch, r)
		}
		queue[0] = nil
		queue = queue[1:]
	}
	if len(queue) == 0 {
		queue = nil
	}
	l.queues[class] = queue
	return batch
}

func (l *lane) sendWant(buf []byte, class Class, batch []*request) []byte {
	if l.next+uint32(len(batch)) < l.next {
		l.next = 0 // far from anything in flight
	}
	w := want{class: class, first: l.next, ids: make([]chunk.ID, len(batch))}
	for i, r := range batch {
		w.ids[i] = r.chunk
		r.id, r.sent = l.next, true
		l.inflight[r.id] = r
		l.next++
	}
	return w.appendTo(buf)
}

// armRead starts the stall time-out when the first request goes into flight.
func (l *lane) armRead() {
	if len(l.inflight) == 0 {
		now := time.Now()
		l.progress.Store(now.UnixNano())
		_ = l.stream.SetReadDeadline(now.Add(l.client.cfg.StallTimeout))
	}
}

// Read reads from the stream and moves the stall time-out on with every byte
// that comes.
func (l *lane) Read(b []byte) (int, error) {
	n, err := l.stream.Read(b)
	if n == 0 {
		return n, err
	}
	now := time.Now()
	l.arrived.Store(now.UnixNano())
	stall := l.client.cfg.StallTimeout
	if time.Duration(now.UnixNano()-l.progress.Load()) > stall/8 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.progress.Store(now.UnixNano())
		if len(l.inflight) > 0 {
			_ = l.stream.SetReadDeadline(now.Add(stall))
		}
	}
	return n, err
}

// readAnswers hands out what comes until the stream ends.
func (l *lane) readAnswers(st network.Stream) error {
	r := bufio.NewReaderSize(l, 16<<10)
	buf := make([]byte, maxSmallFrame)
	for {
		h, err := readHeader(r)
		if err != nil {
			return stalled(err)
		}
		switch h.typ {
		case frameChunk:
			err = l.readChunk(r, h)
		case frameMissing, frameRefused:
			if _, err = io.ReadFull(r, buf[:h.size]); err == nil {
				err = l.takeRefusals(h.typ, buf[:h.size])
			}
		case frameWant, frameCancel:
			err = violation("a request (frame type 0x%02x) came to a client", h.typ)
		default: // of a later version
			_, err = r.Discard(h.size)
		}
		if err != nil {
			return stalled(err)
		}
		l.signal()
	}
}

// readChunk reads a chunk frame and gives the chunk to whoever asked for it.
// Memory is taken only for what was asked for.
func (l *lane) readChunk(r *bufio.Reader, h header) error {
	id, err := readID(r)
	if err != nil {
		return err
	}
	req, err := l.peek(id)
	if err != nil {
		return err
	}
	if req == nil { // cancelled
		if _, err := r.Discard(h.size - idSize); err != nil {
			return err
		}
		l.client.discarded.Add(uint64(max(h.size-idSize-chunk.HeaderSize, 0)))
		return l.finish(id, result{err: errCancelled})
	}
	var head [chunk.HeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	p, err := chunk.ParsePacked(req.chunk, head[:])
	if err != nil {
		return violation("%v", err)
	}
	n := h.size - idSize - len(head)
	if n > p.Size {
		return violation("%d bytes encoded for a plain size of %d", n, p.Size)
	}
	p.Bytes = chunk.NewBuffer(n)
	if _, err := io.ReadFull(r, p.Bytes); err != nil {
		return err
	}
	return l.finish(id, result{packed: p})
}

func readID(r *bufio.Reader) (uint32, error) {
	var b [idSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24, nil
}

// takeRefusals hands out the answers of a missing or refused frame.
func (l *lane) takeRefusals(typ frameType, payload []byte) error {
	answer := ErrMissing
	var ids []uint32
	var err error
	if typ == frameMissing {
		ids, err = parseIDs(payload)
	} else {
		var code refusal
		code, ids, err = parseRefused(payload)
		answer = code.err()
	}
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := l.finish(id, result{err: answer}); err != nil {
			return err
		}
	}
	return nil
}

// peek returns the request in flight with that ID, nil when it was cancelled.
func (l *lane) peek(id uint32) (*request, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.inflight[id]
	switch {
	case l.err != nil:
		return nil, l.err
	case r == nil:
		return nil, violation("answer to request %d, which is not in flight", id)
	case r.cancelled:
		return nil, nil
	}
	return r, nil
}

// finish ends the request with that ID.
func (l *lane) finish(id uint32, res result) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.inflight[id]
	if l.err != nil {
		return l.err
	}
	if r == nil {
		return violation("answer to request %d, which is not in flight", id)
	}
	delete(l.inflight, id)
	if n := len(res.packed.Bytes); n > 0 {
		l.expect += (n - l.expect) / 16
		l.expect = max(l.expect, 4<<10)
	}
	if len(l.inflight) == 0 {
		_ = l.stream.SetReadDeadline(time.Time{})
	}
	if r.cancelled {
		l.client.discarded.Add(uint64(len(res.packed.Bytes)))
	} else {
		r.done <- res
	}
	return nil
}

// stalled turns a passed deadline into ErrStalled.
func stalled(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return ErrStalled
	}
	return err
}
