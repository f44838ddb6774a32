package swarm

import (
	"cmp"
	"math/bits"
	"slices"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Census is which nodes of this site hold which chunks of a shared flist, at
// one moment. It is not changed and may be used from several goroutines.
type Census struct {
	ids   []chunk.ID
	nodes []counted // this one first
	mark  uint64
}

// counted is a node of a census.
type counted struct {
	id       peer.ID
	hash     uint64
	have     bitmap // nil: nothing
	n        int    // chunks
	takes    bool
	metadata bool
	loads    bool
}

// Census counts the nodes of this site that hold chunks of the flist root or
// keep copies of it, and are connected or were less than grace ago. It returns
// old, which may be nil, when nothing has changed since, and nil when the
// flist is not shared.
func (s *Swarm) Census(root chunk.ID, grace time.Duration, old *Census) *Census {
	now := time.Now()
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	sh := h.all[root]
	if sh == nil {
		return nil
	}
	own := s.keeps.own[root]
	c := &Census{ids: sh.table.IDs, nodes: []counted{{
		id: s.cfg.Self, have: sh.have, n: sh.n, takes: own.Takes, metadata: own.Metadata, loads: own.Loads}}}
	for p, at := range s.keeps.seen {
		if p == s.cfg.Self || !at.neighbour || !at.now && now.Sub(at.at) >= grace {
			continue
		}
		k, m := s.keeps.heard[root][p], sh.members[p]
		if k.Copies == 0 && m == nil {
			continue
		}
		node := counted{id: p, takes: k.Takes && k.Copies > 0 && m != nil, metadata: k.Metadata && k.Copies > 0,
			loads: k.Loads && k.Copies > 0}
		if m != nil {
			node.have, node.n = m.have, m.n
		}
		c.nodes = append(c.nodes, node)
	}
	slices.SortFunc(c.nodes[1:], func(a, b counted) int { return cmp.Compare(a.id, b.id) })
	for i := range c.nodes {
		node := &c.nodes[i]
		node.hash = hashPeer(node.id)
		v := uint64(node.n) << 3
		for bit, set := range []bool{node.takes, node.metadata, node.loads} {
			if set {
				v |= 1 << bit
			}
		}
		c.mark = scramble(c.mark ^ node.hash ^ scramble(v))
	}
	if old != nil && old.mark == c.mark {
		return old
	}
	for i := range c.nodes {
		c.nodes[i].have = slices.Clone(c.nodes[i].have)
	}
	return c
}

// Copies is how many copies of an flist's chunks there are at a site.
type Copies struct {
	Nodes    int // that hold some or keep copies
	Takers   int // of them that take more chunks
	Metadata int // of them that hold all metadata
	Loading  int // of them that are loading the flist, and may take chunks then
	Enough   int // chunks of which there are as many copies as wished
	Fewer    int // chunks of which there are fewer, but some
	None     int
	Made     int // copies that count: no more of a chunk than are wished
	Blocked  int // chunks with too few copies that no taker is without
}

// Count counts copies of the data chunks.
func (c *Census) Count(copies int) Copies {
	sum := Copies{Nodes: len(c.nodes)}
	for _, n := range c.nodes {
		if n.takes {
			sum.Takers++
		}
		if n.metadata {
			sum.Metadata++
		}
		if n.loads {
			sum.Loading++
		}
	}
	for i := range c.ids {
		held, takers := c.held(uint32(i))
		sum.Made += min(held, copies)
		switch {
		case held >= copies:
			sum.Enough++
			continue
		case held > 0:
			sum.Fewer++
		default:
			sum.None++
		}
		if takers == 0 {
			sum.Blocked++
		}
	}
	return sum
}

// held returns how many nodes hold a chunk, and how many that do not would
// take it.
func (c *Census) held(i uint32) (held, takers int) {
	for _, n := range c.nodes {
		switch {
		case n.have != nil && n.have.has(i):
			held++
		case n.takes:
			takers++
		}
	}
	return held, takers
}

// Lacks returns chunks this node is to fetch so that there are as many copies
// as wished, at most most of each kind: those that somebody at the site holds,
// the rarest first, and those that nobody there does. skip says which not to
// return; it may be nil.
//
// Of the nodes that take chunks and do not hold one, as many as copies are
// missing fetch it, those that rendezvous hashing names first; and only one as
// long as nobody at the site holds it. All nodes compute the same, no copy is
// ever moved, and when a node goes only what it held is fetched again. With
// late above 0, as many more nodes as that fetch it too, since those named
// first have not.
func (c *Census) Lacks(copies, late, most int, skip func(uint32) bool) (here, elsewhere []uint32) {
	if !c.nodes[0].takes {
		return nil, nil
	}
	rare := make([][]uint32, copies)
	for w := range c.nodes[0].have {
		for v := ^c.nodes[0].have[w]; v != 0; v &= v - 1 {
			i := w*64 + bits.TrailingZeros64(v)
			if i >= len(c.ids) {
				break
			}
			held, _ := c.held(uint32(i))
			if held >= copies || len(rare[held]) >= most || skip != nil && skip(uint32(i)) {
				continue
			}
			turns := copies - held
			if held == 0 {
				turns = 1
			}
			if c.before(uint32(i)) < turns+late {
				rare[held] = append(rare[held], uint32(i))
			}
		}
	}
	if copies > 1 {
		here = slices.Concat(rare[1:]...)
	}
	return here[:min(len(here), most)], rare[0]
}

// before returns how many nodes that would take a chunk rendezvous hashing
// names before this one.
func (c *Census) before(i uint32) (n int) {
	id := &c.ids[i]
	mine := rank(c.nodes[0].hash, id)
	for _, other := range c.nodes[1:] {
		if !other.takes || other.have.has(i) {
			continue
		}
		if r := rank(other.hash, id); r > mine || r == mine && other.id > c.nodes[0].id {
			n++
		}
	}
	return n
}

// Held returns how many nodes hold the chunk at a place.
func (c *Census) Held(i uint32) int {
	held, _ := c.held(i)
	return held
}

// ID returns the ID of the chunk at a place.
func (c *Census) ID(i uint32) chunk.ID { return c.ids[i] }
