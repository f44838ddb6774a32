package pack

import (
	"context"
	"fmt"
	"math/bits"
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

// task is a finished chunk. done gets its name as soon as that is known, which
// is before the chunk is put.
type task struct {
	buf  *[]byte
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

// submit hands over *buf, which came from getBuf. It blocks while too much
// content is in flight.
func (p *putter) submit(ctx context.Context, buf *[]byte, done func(chunk.ID)) error {
	weight := int64(cap(*buf))
	if err := p.memory.Acquire(ctx, weight); err != nil {
		return err
	}
	select {
	case p.tasks <- task{buf, done}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish says that nothing more will be submitted.
func (p *putter) finish() { close(p.tasks) }

// run works on tasks until there are no more.
func (p *putter) run(ctx context.Context) error {
	out := make([]byte, 0, chunk.MaxSize) // compressed chunks of CutMax fit with room to spare
	for {
		select {
		case t, ok := <-p.tasks:
			if !ok {
				return nil
			}
			if err := p.put(ctx, t, out); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *putter) put(ctx context.Context, t task, out []byte) error {
	defer p.memory.Release(int64(cap(*t.buf)))
	defer putBuf(t.buf)
	id := chunk.Sum(*t.buf)
	t.done(id)
	if !p.recent.claim(id) {
		return nil
	}
	if p.held != nil {
		size, held, err := p.held.PackedSize(ctx, id)
		if err != nil {
			return fmt.Errorf("look for chunk %s: %w", id, err)
		}
		if held {
			p.counts.chunks.Add(1)
			p.counts.stored.Add(int64(size))
			return nil
		}
	}
	c := chunk.PackInto(id, *t.buf, out)
	if err := p.sink.Put(ctx, c); err != nil {
		return fmt.Errorf("put chunk %s: %w", id, err)
	}
	p.counts.chunks.Add(1)
	p.counts.stored.Add(int64(len(c.Bytes)))
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

// Buffers for the content of chunks, by capacity: 64 KiB << class.
var bufs [5]sync.Pool

const minBuf = 64 << 10

// getBuf returns an empty buffer with room for n bytes, at most 1 MiB.
func getBuf(n int) *[]byte {
	class := bits.Len(uint(max(n, 1)-1) / minBuf)
	if b, ok := bufs[class].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, minBuf<<class)
	return &b
}

func putBuf(b *[]byte) {
	class := bits.Len(uint(cap(*b)-1) / minBuf)
	*b = (*b)[:0]
	bufs[class].Put(b)
}
