package mount

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Chunks lie in the order of the tree, so who reads small files one after
// another goes from chunk to chunk. The next ones are unpacked while he has not
// asked for them yet, on another processor: from the store alone, since what
// is moved over the network for nothing costs more than what is unpacked for
// nothing.
const (
	nearStreams  = 32       // readers that are told apart, and levels of the tree for each
	nearFirst    = 64 << 10 // bytes ahead of a reader that went on to the next chunk; doubles
	nearMost     = 1 << 20  // bytes ahead of a reader
	nearInFlight = 4        // chunks, for all readers of a mount
)

// near gets chunks from the Source Options.Local, which keeps them where the
// reads look, before they are asked for.
type near struct {
	im    *flist.Image
	src   chunk.Source
	last  atomic.Uint64 // the chunk read last, plus one: most reads are of the same
	slots chan struct{}
	work  sync.WaitGroup

	mu      sync.Mutex
	ended   bool
	clock   uint64
	streams [nearStreams]run
}

// run is chunks that were read one after another. A walk through a tree reads
// several by turns: directories of one level lie together.
type run struct {
	next   uint32 // the chunk behind the last that was read
	asked  uint32 // the chunk behind the last that was asked for
	window int64  // bytes
	used   uint64 // when, by near.clock; 0 for never
}

func newNear(im *flist.Image, src chunk.Source) *near {
	return &near{im: im, src: src, slots: make(chan struct{}, nearInFlight)}
}

// read takes note that a chunk is read and asks for what may follow it. It does
// not block.
func (n *near) read(ctx context.Context, c uint32) {
	if n.src == nil || n.last.Swap(uint64(c)+1) == uint64(c)+1 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return
	}
	n.clock++
	oldest := &n.streams[0]
	for i := range n.streams {
		s := &n.streams[i]
		if s.used != 0 && (c == s.next || c+1 == s.next) {
			s.used = n.clock
			if c == s.next {
				s.next++
				s.window = min(max(2*s.window, nearFirst), nearMost)
				n.ask(ctx, s)
			}
			return
		}
		if s.used < oldest.used {
			oldest = s
		}
	}
	*oldest = run{next: c + 1, asked: c + 1, used: n.clock}
}

// ask asks for the chunks of the window that were not asked for yet, as many
// as there are slots for.
func (n *near) ask(ctx context.Context, s *run) {
	s.asked = max(s.asked, s.next)
	left := s.window
	for c := s.next; left > 0 && int(c) < n.im.NumChunks(); c++ {
		id, size := n.im.Chunk(c)
		left -= int64(size)
		if c < s.asked {
			continue
		}
		select {
		case n.slots <- struct{}{}:
		default:
			return
		}
		s.asked = c + 1
		n.work.Go(func() {
			defer func() { <-n.slots }()
			_, _ = n.src.Get(ctx, id) // whoever needs it will see the error
		})
	}
}

// end asks for nothing more and waits for what was asked for.
func (n *near) end() {
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	n.work.Wait()
}
