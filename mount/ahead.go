package mount

import (
	"context"
	"sync"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// The readahead of this package works in whole chunks and over files of any
// size, and leaves the kernel's own to small distances: what the kernel asks
// for ahead of a jumping reader is moved over the network for nothing.
const (
	aheadStreams  = 64      // sequential readers that are told apart
	aheadAfter    = 3       // requests in a row that make a reader sequential
	aheadLeast    = 1 << 17 // bytes ahead of a sequential reader, who has as much ahead as he has read
	aheadMost     = 4 << 20 // bytes ahead of a reader
	aheadInFlight = 32      // chunks, for all readers of a mount
	aheadSlack    = 2 << 20 // bytes by which requests may overtake one another
)

// ahead gets the next chunks of files that are read sequentially from the
// Source Options.Ahead, which keeps them where the reads look.
type ahead struct {
	im    *flist.Image
	src   chunk.Source
	slots chan struct{}
	work  sync.WaitGroup

	mu      sync.Mutex
	ended   bool
	streams [aheadStreams]stream
}

// stream is what is known of who reads a file. There are no handles to tell
// readers of one file apart.
type stream struct {
	ino   flist.Inode
	used  bool
	row   int                // requests that followed one another
	start uint64             // where the first of them began
	next  uint64             // end of the furthest of them
	asked uint64             // up to where chunks were asked for
	last  uint32             // the chunk asked for last
	ctx   context.Context    // of what was asked for
	stop  context.CancelFunc // ends what was asked for; nil if nothing was
}

func newAhead(im *flist.Image, src chunk.Source) *ahead {
	return &ahead{im: im, src: src, slots: make(chan struct{}, aheadInFlight)}
}

// read takes note of a request and asks for what will follow it. It does not
// block.
func (a *ahead) read(ctx context.Context, ino flist.Inode, off, size uint64) {
	if a.src == nil || size == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &a.streams[ino%aheadStreams]
	switch {
	case a.ended:
		return
	case s.used && s.ino == ino && off == s.next:
		s.row++
		s.next += size
	case s.used && s.ino == ino && s.row >= aheadAfter && off+aheadSlack > s.next && off < s.next+aheadSlack:
		s.next = max(s.next, off+size) // it overtook another, or was overtaken
	default: // another reader, or this one jumped
		if s.stop != nil {
			s.stop()
		}
		*s = stream{ino: ino, used: true, row: 1, start: off, next: off + size}
		return
	}
	if s.row >= aheadAfter {
		a.ask(ctx, s)
	}
}

// ask asks for the chunks of the window that were not asked for yet, as many
// as there are slots for.
func (a *ahead) ask(ctx context.Context, s *stream) {
	if s.stop == nil {
		s.ctx, s.stop = context.WithCancel(ctx)
		s.last = ^uint32(0)
	}
	s.asked = max(s.asked, s.next)
	window := min(max(s.next-s.start, aheadLeast), aheadMost)
	for s.asked < s.next+window {
		p, ok := a.im.PieceAt(s.ino, s.asked)
		if !ok {
			return
		}
		if !p.Hole && p.Chunk != s.last {
			select {
			case a.slots <- struct{}{}:
			default:
				return
			}
			s.last = p.Chunk
			id, _ := a.im.Chunk(p.Chunk)
			ctx := s.ctx
			a.work.Go(func() {
				defer func() { <-a.slots }()
				_, _ = a.src.Get(ctx, id) // whoever needs it will see the error
			})
		}
		s.asked += p.Length
	}
}

// end ends everything that was asked for and waits for it.
func (a *ahead) end() {
	a.mu.Lock()
	a.ended = true
	for i := range a.streams {
		if stop := a.streams[i].stop; stop != nil {
			stop()
		}
	}
	a.mu.Unlock()
	a.work.Wait()
}
