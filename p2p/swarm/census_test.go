package swarm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

// siteOf returns nodes of a site that hold nothing and take chunks, as each
// sees itself: the census of node i begins with it.
func siteOf(chunks, nodes int) []*Census {
	ids := make([]chunk.ID, chunks)
	for i := range ids {
		ids[i] = chunk.Sum([]byte(fmt.Sprint(i)))
	}
	all := make([]counted, nodes)
	for i := range all {
		id := peer.ID(fmt.Sprintf("node %02d", i))
		all[i] = counted{id: id, hash: hashPeer(id), have: newBitmap(chunks), takes: true}
	}
	site := make([]*Census, nodes)
	for i := range site {
		view := append([]counted{all[i]}, all[:i]...)
		site[i] = &Census{ids: ids, nodes: append(view, all[i+1:]...)}
	}
	return site // they share bitmaps, so each sees what the others get
}

// settle lets each node fetch what it is to hold until nobody has anything to
// do, and returns how many chunks were fetched.
func settle(site []*Census, copies int) (fetched int) {
	for {
		before := fetched
		for _, c := range site {
			here, elsewhere := c.Lacks(copies, 0, 1<<20, nil)
			for _, i := range append(here, elsewhere...) {
				if !c.nodes[0].have.has(i) {
					c.nodes[0].have.set(i)
					fetched++
				}
			}
		}
		if fetched == before {
			return fetched
		}
	}
}

func TestEveryChunkGetsAsManyHoldersAsWished(t *testing.T) {
	const chunks = 1000
	for _, tc := range []struct{ nodes, copies int }{{1, 1}, {4, 1}, {4, 2}, {4, 4}, {10, 3}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			site := siteOf(chunks, tc.nodes)
			fetched := settle(site, tc.copies)
			want := Copies{Nodes: tc.nodes, Takers: tc.nodes, Enough: chunks, Made: chunks * tc.copies}
			if diff := cmp.Diff(want, site[0].Count(tc.copies)); diff != "" {
				t.Error(diff)
			}
			if fetched != chunks*tc.copies {
				t.Errorf("%d chunks were fetched, want %d", fetched, chunks*tc.copies)
			}
			for i, c := range site { // hashing shares the work about equally
				share := chunks * tc.copies / tc.nodes
				if n := c.nodes[0].have.count(); n < share*8/10 || n > share*12/10 {
					t.Errorf("node %d holds %d chunks, the mean is %d", i, n, share)
				}
			}
		})
	}
}

func TestCopiesThatAreThereAreCountedAndNotMoved(t *testing.T) {
	const chunks = 1000
	site := siteOf(chunks, 5)
	rnd := rand.New(rand.NewPCG(1, 2))
	want := 0
	for i := range uint32(chunks) {
		held := 0
		for _, c := range site {
			if rnd.IntN(3) == 0 {
				c.nodes[0].have.set(i)
				held++
			}
		}
		want += max(0, 2-held)
	}
	if fetched := settle(site, 2); fetched != want {
		t.Errorf("%d chunks were fetched, %d copies were missing", fetched, want)
	}
}

func TestWhenANodeGoesOnlyWhatItHeldIsFetchedAgain(t *testing.T) {
	const chunks = 1000
	site := siteOf(chunks, 5)
	settle(site, 2)
	gone := site[4].nodes[0]
	for _, c := range site[:4] {
		c.nodes = c.nodes[:4] // it is the last in the view of all others
	}
	if fetched := settle(site[:4], 2); fetched != gone.have.count() {
		t.Errorf("%d chunks were fetched, the node that went had held %d", fetched, gone.have.count())
	}
	if got := site[0].Count(2); got.Enough != chunks {
		t.Errorf("after that: %+v", got)
	}
}

func TestWhatNobodyAtTheSiteHoldsIsFetchedByOneNode(t *testing.T) {
	site := siteOf(500, 6)
	first := newBitmap(500)
	for _, c := range site {
		here, elsewhere := c.Lacks(3, 0, 1000, nil)
		if len(here) > 0 {
			t.Errorf("%d chunks are to be fetched within the site, which has none", len(here))
		}
		for _, i := range elsewhere {
			if first.has(i) {
				t.Fatalf("chunk %d is to be fetched by two nodes", i)
			}
			first.set(i)
		}
	}
	if n := first.count(); n != 500 {
		t.Errorf("%d of 500 chunks are fetched by somebody", n)
	}
	twice := 0
	for _, c := range site { // those named first have not fetched for long
		_, elsewhere := c.Lacks(3, 1, 1000, nil)
		twice += len(elsewhere)
	}
	if twice != 1000 {
		t.Errorf("when it is late %d fetches of 500 chunks are tried, want 1000", twice)
	}
}

func TestNodesThatTakeNoMoreAreLeftOutAndCounted(t *testing.T) {
	const chunks = 100
	site := siteOf(chunks, 3)
	for i := range uint32(chunks) {
		site[0].nodes[0].have.set(i)
	}
	for _, c := range site {
		for i := range c.nodes {
			c.nodes[i].takes = c.nodes[i].id == "node 01"
		}
	}
	if fetched := settle(site, 3); fetched != chunks {
		t.Errorf("%d chunks were fetched by one node of %d", fetched, chunks)
	}
	want := Copies{Nodes: 3, Takers: 1, Fewer: chunks, Made: 2 * chunks, Blocked: chunks}
	if diff := cmp.Diff(want, site[2].Count(3)); diff != "" {
		t.Error(diff)
	}
	site[0].nodes[0].have.clear(7)
	site[1].nodes[0].have.clear(7)
	if got := site[2].Count(3); got.None != 1 || got.Fewer != chunks-1 || got.Blocked != chunks-1 {
		t.Errorf("with a chunk that nobody holds: %+v", got)
	}
}

func TestAsManyChunksAsAskedAreReturnedTheRarestFirst(t *testing.T) {
	site := siteOf(100, 4)
	for i := range uint32(100) {
		for _, c := range site[1 : 2+i%2] { // odd ones are held twice
			c.nodes[0].have.set(i)
		}
	}
	here, elsewhere := site[0].Lacks(4, 0, 60, func(i uint32) bool { return i < 10 })
	if len(here) != 60 || len(elsewhere) != 0 {
		t.Fatalf("%d and %d chunks, want 60 and none", len(here), len(elsewhere))
	}
	for k, i := range here {
		if i < 10 || k < 45 && i%2 != 0 {
			t.Errorf("chunk %d is number %d", i, k)
		}
	}
}

func TestPeersOfTheSiteHearOfAWishAndOthersAreNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(8, 4<<10)
		defer c.end()
		a := c.add(t, "a", "attic", 100*mbit, true)
		var mu sync.Mutex
		heard := map[peer.ID][]Keep{}
		hears := func(by peer.ID) func(peer.ID, Keep) {
			return func(_ peer.ID, k Keep) {
				mu.Lock()
				defer mu.Unlock()
				heard[by] = append(heard[by], k)
			}
		}
		for _, id := range []peer.ID{"b", "c", "far", "liar"} {
			site := "attic"
			if id == "far" {
				site = "cellar"
			}
			n := c.add(t, id, site, 100*mbit, id == "c")
			n.swarm.cfg.Wished = hears(id)
			n.swarm.cfg.OnLAN = func(p peer.ID) bool { return p != "liar" }
		}
		a.swarm.cfg.Wished = hears("a")
		a.swarm.cfg.OnLAN = func(p peer.ID) bool { return p != "liar" }
		k := Keep{Root: c.table.Root, Version: 7, Copies: 2, Takes: true, Metadata: true}
		for range 3 {
			a.swarm.Keep([]Keep{k})
			c.nodes["liar"].swarm.Keep([]Keep{{Root: c.table.Root, Version: 9, Copies: 64}})
			time.Sleep(time.Second)
		}
		mu.Lock()
		if diff := cmp.Diff([]Keep{k}, heard["b"]); diff != "" {
			t.Errorf("a node of the site heard (-want +got):\n%s", diff)
		}
		for _, id := range []peer.ID{"a", "far"} {
			if len(heard[id]) > 0 {
				t.Errorf("%s heard %+v", id, heard[id])
			}
		}

		mu.Unlock()

		// c holds all and takes part; it counts as long as it is connected.
		c.nodes["c"].swarm.Keep([]Keep{k})
		a.swarm.Attend(within(t, time.Second), c.table.Root)
		a.swarm.Keep([]Keep{k})
		census := a.swarm.Census(c.table.Root, time.Minute, nil)
		want := Copies{Nodes: 2, Takers: 2, Metadata: 2, Enough: 8, Made: 16}
		if diff := cmp.Diff(want, census.Count(2)); diff != "" {
			t.Error(diff)
		}
		if again := a.swarm.Census(c.table.Root, time.Minute, census); again != census {
			t.Error("a census was made anew though nothing has changed")
		}
		a.swarm.cfg.Connected = func() []peer.ID { return []peer.ID{"b"} }
		for _, tc := range []struct {
			after time.Duration
			nodes int
		}{{59 * time.Second, 2}, {2 * time.Second, 1}} {
			time.Sleep(tc.after)
			a.swarm.Keep([]Keep{k})
			if got := a.swarm.Census(c.table.Root, time.Minute, census).Count(2); got.Nodes != tc.nodes {
				t.Errorf("%d nodes after %s more, want %d", got.Nodes, tc.after, tc.nodes)
			}
		}
	})
}

func TestAPeerThatWasAwayIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(8, 4<<10)
		defer c.end()
		a, b := c.add(t, "a", "", 100*mbit, true), c.add(t, "b", "", 100*mbit, false)
		var heard atomic.Int32
		b.swarm.cfg.Wished = func(peer.ID, Keep) { heard.Add(1) }
		k := []Keep{{Root: c.table.Root, Version: 1, Copies: 2}}
		rounds := func(n int) {
			for range n {
				a.swarm.Keep(k)
				time.Sleep(time.Second)
			}
		}
		rounds(20)
		if n := heard.Load(); n != 1 {
			t.Errorf("in 20 s the wish was told %d times", n)
		}
		connected := a.swarm.cfg.Connected
		a.swarm.cfg.Connected = func() []peer.ID { return nil }
		rounds(1)
		a.swarm.cfg.Connected = connected
		rounds(2)
		if n := heard.Load(); n != 2 {
			t.Errorf("after b was away the wish was told %d times, want 2", n)
		}
		k[0].Version, k[0].Copies = 2, 0
		rounds(2)
		if n := heard.Load(); n != 3 {
			t.Errorf("after a change the wish was told %d times, want 3", n)
		}
	})
}

func TestChunkThatIsLostIsToldToThoseWhoCountOnIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(8, 4<<10)
		defer c.end()
		a, b := c.add(t, "a", "", 100*mbit, true), c.add(t, "b", "", 100*mbit, true)
		for _, n := range []*crowdNode{a, b} {
			n.swarm.cfg.Wished = func(peer.ID, Keep) {}
		}
		a.swarm.Attend(within(t, time.Second), c.table.Root)
		for _, n := range []*crowdNode{a, b} {
			n.swarm.Keep([]Keep{{Root: c.table.Root, Version: 1, Copies: 2, Takes: true}})
		}
		time.Sleep(time.Second)
		a.swarm.Went(c.table.IDs[3])
		time.Sleep(time.Second)
		if got := b.swarm.Census(c.table.Root, time.Minute, nil).Count(2); got.Enough != 7 || got.Fewer != 1 {
			t.Errorf("b counts %+v", got)
		}
		if here, _ := a.swarm.Census(c.table.Root, time.Minute, nil).Lacks(2, 0, 10, nil); !cmp.Equal(here, []uint32{3}) {
			t.Errorf("a is to fetch %v", here)
		}
		a.swarm.Came(c.table.IDs[3]) // b was complete when it joined, and hears of it all the same
		time.Sleep(time.Second)
		if got := b.swarm.Census(c.table.Root, time.Minute, nil).Count(2); got.Enough != 8 {
			t.Errorf("b counts %+v", got)
		}
	})
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func BenchmarkCensusOfAMillionChunks(b *testing.B) {
	site := siteOf(1_000_000, 10)
	for i := range uint32(1_000_000) {
		for _, c := range site[i%9 : i%9+2] {
			c.nodes[0].have.set(i)
		}
	}
	b.Run("count", func(b *testing.B) {
		for range b.N {
			site[0].Count(2)
		}
	})
	b.Run("lacks nothing", func(b *testing.B) {
		for range b.N {
			site[0].Lacks(2, 0, 256, nil)
		}
	})
	b.Run("lacks what others are to fetch", func(b *testing.B) {
		for range b.N {
			site[0].Lacks(3, 0, 256, func(uint32) bool { return false })
		}
	})
}
