package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/swarm"
)

// want says for what a chunk is wanted.
type want struct {
	root     chunk.ID      // the flist it belongs to: who has that probably has the chunk
	class    swarm.Class   // who comes first when links are full
	patience time.Duration // how long a chunk nobody gives is waited for
	once     bool          // the content is needed once: it is not put into the cache
	from     *origins      // counts where chunks came from; nil if nobody asks
}

// flightKey tells requests apart that must not wait for one another: a read
// somebody waits for does not join a prefetch from the network. The swarm
// sees to it that a chunk is fetched once all the same.
type flightKey struct {
	id    chunk.ID
	here  bool // from the store; then class is 0
	class swarm.Class
}

// get is the way of a read: cache, store, swarm, keep. The content is verified
// and shared.
func (n *Node) get(ctx context.Context, id chunk.ID, w want) ([]byte, error) {
	if data, ok := n.cache.get(id); ok {
		w.from.cached()
		return data, nil
	}
	data, err := n.flights.lead(ctx, flightKey{id: id, here: true}, func(ctx context.Context) ([]byte, error) {
		return n.fromStore(ctx, id, w)
	})
	if !errors.Is(err, chunk.ErrNotFound) {
		return data, err
	}
	return n.flights.do(ctx, flightKey{id: id, class: w.class}, func(ctx context.Context) ([]byte, error) {
		return n.fromSwarm(ctx, id, w)
	})
}

// fromStore reads a chunk from the store. One that the store found corrupt,
// and dropped, is one it does not have.
func (n *Node) fromStore(ctx context.Context, id chunk.ID, w want) ([]byte, error) {
	data, err := n.store.Get(ctx, id)
	var corrupt *chunk.CorruptError
	if errors.As(err, &corrupt) {
		n.log.Warn("chunk in the store was corrupt, fetching it again", "chunk", id, "err", err)
		return nil, fmt.Errorf("%w: %w", chunk.ErrNotFound, err)
	}
	if err == nil {
		w.from.stored()
		n.inCache(id, data, w)
	}
	return data, err
}

// fromSwarm fetches a chunk from the peers and keeps it.
func (n *Node) fromSwarm(ctx context.Context, id chunk.ID, w want) ([]byte, error) {
	if data, ok := n.cache.peek(id); ok {
		return data, nil // it came since the store was asked
	}
	p, data, err := n.ask(ctx, id, w)
	if err != nil {
		return nil, err
	}
	w.from.fetched(len(data))
	n.inCache(id, data, w)
	n.keep(ctx, p)
	return data, nil
}

// ask asks the peers. The swarm gives up after a while by itself, and
// says whom it asked; a longer patience asks again.
func (n *Node) ask(ctx context.Context, id chunk.ID, w want) (chunk.Packed, []byte, error) {
	began := time.Now()
	for {
		p, data, err := n.swarm.GetPacked(ctx, id, w.class, swarm.Hint{Root: w.root})
		if !errors.Is(err, chunk.ErrNotFound) || time.Since(began)+n.findTimeout/2 > w.patience {
			return p, data, err
		}
	}
}

// inCache puts content into the cache unless it is needed only once.
func (n *Node) inCache(id chunk.ID, data []byte, w want) {
	if !w.once {
		n.cache.add(id, data)
	}
}

// keep puts a fetched chunk into the store. The reader has its content already
// and does not suffer if the disk is full. It is kept even when the reader has
// left meanwhile: it is in the cache, so nobody would fetch it again.
func (n *Node) keep(ctx context.Context, p chunk.Packed) {
	// The swarm has just opened and so verified this very Packed.
	err := n.store.PutTrusted(context.WithoutCancel(ctx), p)
	if err == nil || errors.Is(err, chunkstore.ErrClosed) {
		return
	}
	if now := time.Now().Unix(); now-n.keepWarned.Load() >= int64(keepWarnEvery/time.Second) {
		n.keepWarned.Store(now)
		n.log.Warn("fetched chunks cannot be kept", "chunk", p.ID, "err", err)
	}
}

const keepWarnEvery = time.Minute

// source is a chunk.Source over the whole node, for one flist and one purpose.
type source struct {
	n *Node
	w want
}

var _ chunk.Source = source{}

// Get implements chunk.Source.
func (s source) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	data, err := s.n.get(ctx, id, s.w)
	if err != nil && s.w.class == swarm.Waiting && s.n.handingOver.Load() {
		<-ctx.Done() // no error may reach the reader: the next daemon answers it
	}
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, chunk.ErrNotFound) {
		err = s.n.owed(id, err)
	}
	return data, err
}

// owed names those from whom a chunk was waited for when the time was over.
func (n *Node) owed(id chunk.ID, err error) error {
	w := n.swarm.Whereabouts(id)
	var holders, answers []string
	for _, m := range w.Members {
		if m.Holds {
			holders = append(holders, m.Peer.String())
		}
	}
	for _, a := range w.Asked {
		if a.Answer == swarm.Owes {
			continue
		}
		answers = append(answers, a.Peer.String()+": "+a.Answer)
	}
	slices.Sort(holders)
	said := func(list []string) string {
		if len(list) == 0 {
			return "nobody"
		}
		return strings.Join(list[:min(len(list), maxOwed)], "; ")
	}
	return fmt.Errorf("no whole answer in time; peers that say they hold it: %s; peers that answered lately: %s: %w",
		said(holders), said(answers), err)
}

// maxOwed bounds the peers an error names.
const maxOwed = 8

// once is s for content that is needed once.
func (s source) once() source {
	s.w.once = true
	return s
}

// reading is the source of whoever waits for the content of root as an
// application does: through a mount.
func (n *Node) reading(root cid.Cid) source {
	return source{n, want{root: rootID(root), class: swarm.Waiting, patience: n.cfg.ReadTimeout}}
}

// working is the source of a command that a user waits for.
func (n *Node) working(root cid.Cid) source {
	return source{n, want{root: rootID(root), class: swarm.Readahead, patience: n.cfg.FetchTimeout}}
}

// bulk is the source for much data, behind whoever waits for single chunks.
func (n *Node) bulk(root cid.Cid) source {
	return source{n, want{root: rootID(root), class: swarm.Prefetch, patience: n.cfg.FetchTimeout}}
}

// rootID returns the ID of a root block, the zero ID for something that
// cannot be one.
func rootID(root cid.Cid) chunk.ID {
	id, err := chunk.FromCID(root)
	if err != nil {
		return chunk.ID{}
	}
	return id
}

// Source returns the verified chunks of the flist root from the cache, the
// store or the swarm. It may be used until the node is closed.
func (n *Node) Source(root cid.Cid) chunk.Source { return n.reading(root) }

// local is a chunk.Source of what is here: the cache and the store, without
// the network.
type local struct{ n *Node }

// Get implements chunk.Source.
func (l local) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	if data, ok := l.n.cache.get(id); ok {
		return data, nil
	}
	data, err := l.n.store.Get(ctx, id)
	if err == nil {
		l.n.cache.add(id, data)
	}
	return data, err
}

// nearby is a chunk.Source that unpacks what is in the store into the cache,
// for reads that may follow. It is not counted as a read.
type nearby struct{ n *Node }

// Get implements chunk.Source.
func (s nearby) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	if data, ok := s.n.cache.peek(id); ok {
		return data, nil
	}
	return s.n.flights.lead(ctx, flightKey{id: id, here: true}, func(ctx context.Context) ([]byte, error) {
		return s.n.fromStore(ctx, id, want{})
	})
}
