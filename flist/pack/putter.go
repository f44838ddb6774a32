package pack

import (
	"context"
	"fmt"
	"sync"

	"github.com/flistnode/flistnode/flist/chunk"
	"golang.org/x/sync/semaphore"
)

// putter hashes, compresses and puts chunks, several at a time. Equal chunks
// shortly after one another are put once.
type putter struct {
	sink   chunk.Sink
	held   Holder // nil if sink is none
	tasks  chan task
	memory *semaphore.Weighted // bytes of content handed in and not yet put
	recent recentIDs
	counts *counters
}

// Holder is a Sink that can tell what it has: such a chunk is neither
// compressed nor put again, which makes packing a tree anew several times
// faster. PackedSize returns the encoded bytes of a chunk that is held.
type Holder interface {
	PackedSize(ctx context.Context, id chunk.ID) (size int, held bool, err error)
}

// task is a finished chunk: a part of buf, of which it is a user. done gets its
// name as soon as that is known, which is before the chunk is put.
type task struct {
	data []byte
	buf  *buffer
	done func(chunk.ID)
}

func newPutter(sink chunk.Sink, memoryBytes int64, workers int, counts *counters) *putter {
	held, _ := sink.(Holder)
	return &putter{
		sink:   sink,
		held:   held,
		tasks:  make(chan task, 2*workers),
		memory: semaphore.NewWeighted(memoryBytes),
		recent: recentIDs{ids: make([]chunk.ID, recentSize)},
		counts: counts,
	}
}

// submit hands over data, and with it one use of buf, in which it lies. It
// blocks while too much content is in flight.
func (p *putter) submit(ctx context.Context, data []byte, buf *buffer, done func(chunk.ID)) error {
	if err := p.memory.Acquire(ctx, int64(len(data))); err != nil {
		return err
	}
	select {
	case p.tasks <- task{data, buf, done}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish says that nothing more will be submitted.
func (p *putter) finish() { close(p.tasks) }

// batchBytes is how many encoded bytes of chunks are put together.
const batchBytes = 1 << 20

// hands is the state of one goroutine of a putter.
type hands struct {
	*putter
	out   []byte // encoded chunks, one behind the other
	batch []chunk.Packed
}

// run works on tasks until there are no more.
func (p *putter) run(ctx context.Context) error {
	h := &hands{putter: p, out: make([]byte, 0, batchBytes+chunk.RoomToPack(CutMax))}
	for {
		select {
		case t, ok := <-p.tasks:
			if !ok {
				return h.put(ctx)
			}
			if err := h.pack(ctx, t); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pack names and compresses a chunk, and puts the batch when it is large.
func (h *hands) pack(ctx context.Context, t task) error {
	defer h.memory.Release(int64(len(t.data)))
	defer t.buf.release()
	id := chunk.Sum(t.data)
	t.done(id)
	if !h.recent.claim(id) {
		return nil
	}
	if h.held != nil {
		size, held, err := h.held.PackedSize(ctx, id)
		if err != nil {
			return fmt.Errorf("look for chunk %s: %w", id, err)
		}
		if held {
			h.counts.chunks.Add(1)
			h.counts.stored.Add(int64(size))
			return nil
		}
	}
	p := chunk.PackInto(id, t.data, h.out[len(h.out):cap(h.out)])
	h.out = h.out[:len(h.out)+len(p.Bytes)]
	h.batch = append(h.batch, p)
	if len(h.out) < batchBytes {
		return nil
	}
	return h.put(ctx)
}

// put puts the batch.
func (h *hands) put(ctx context.Context) error {
	if err := putAll(ctx, h.sink, h.batch); err != nil {
		return err
	}
	h.counts.chunks.Add(int64(len(h.batch)))
	for _, p := range h.batch {
		h.counts.stored.Add(int64(len(p.Bytes)))
	}
	h.out, h.batch = h.out[:0], h.batch[:0]
	return nil
}

func putAll(ctx context.Context, sink chunk.Sink, ps []chunk.Packed) error {
	if b, ok := sink.(chunk.BatchSink); ok {
		if err := b.PutAll(ctx, ps); err != nil {
			return fmt.Errorf("put %d chunks: %w", len(ps), err)
		}
		return nil
	}
	for _, p := range ps {
		if err := sink.Put(ctx, p); err != nil {
			return fmt.Errorf("put chunk %s: %w", p.ID, err)
		}
	}
	return nil
}

// recentSize is how many names recentIDs has room for: 2 MiB.
const recentSize = 1 << 16

// recentIDs remembers names of chunks somebody has taken on to put. It forgets:
// a chunk that is put twice costs time and nothing else.
type recentIDs struct {
	mu  sync.Mutex
	ids []chunk.ID
}

// claim reports whether the caller is to put id.
func (r *recentIDs) claim(id chunk.ID) bool {
	slot := &r.ids[(int(id[0])<<8|int(id[1]))%recentSize]
	r.mu.Lock()
	defer r.mu.Unlock()
	if *slot == id {
		return false
	}
	*slot = id
	return true
}
