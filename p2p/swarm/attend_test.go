package swarm

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

// member returns what n knows of p as a member.
func (n *crowdNode) member(p peer.ID) (m member, ok bool) {
	h := n.swarm.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	if sh := h.all[n.c.table.Root]; sh != nil && sh.members[p] != nil {
		return *sh.members[p], true
	}
	return m, false
}

// read makes n hold some chunks and take part as one that reads.
func (n *crowdNode) read(t *testing.T, places int) (stop func()) {
	t.Helper()
	var held []uint32
	for i, id := range n.c.table.IDs[:places] {
		n.have[id] = true
		held = append(held, uint32(i))
	}
	if err := n.swarm.Share(n.c.table, held); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { n.swarm.Attend(ctx, n.c.table.Root) })
	return func() {
		cancel()
		wg.Wait()
	}
}

func TestAReaderGivesWhatItHoldsAndNothingIsLeftToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(256, 128<<10)
		defer c.end()
		c.add(t, "seed", "", 100*mbit, true)
		reader := c.add(t, "reader", "", 100*mbit, false)
		nodes := []*crowdNode{c.add(t, "node 1", "", 100*mbit, false), c.add(t, "node 2", "", 100*mbit, false)}
		stop := reader.read(t, 100)
		defer stop()
		time.Sleep(time.Second)
		if m, ok := reader.member("seed"); !ok || m.n != 256 {
			t.Errorf("the reader knows of the seed: %v, %d chunks", ok, m.n)
		}
		c.download(t, nodes...)
		for _, n := range nodes {
			if m, ok := n.member("reader"); !ok || !m.reads || m.n != 100 {
				t.Errorf("%s knows of the reader: %v, reads %v, %d chunks; want one that reads and holds 100", n.id, ok, m.reads, m.n)
			}
		}
		if reader.sent == 0 {
			t.Error("nobody took a chunk from the reader")
		}
		if reader.received != 0 {
			t.Errorf("the reader fetched %d chunks", reader.received)
		}
		time.Sleep(time.Second)
		if m, ok := reader.member("node 1"); !ok || m.n != 256 {
			t.Errorf("the reader knows of a node that fetched: %v, %d chunks", ok, m.n)
		}
	})
}

func TestAReaderThatBeginsToFetchIsToldAsOneThatFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(256, 128<<10)
		defer c.end()
		c.add(t, "seed", "", 100*mbit, true)
		reader := c.add(t, "reader", "", 100*mbit, false)
		other := c.add(t, "other", "", 100*mbit, false)
		defer reader.read(t, 1)()
		defer other.read(t, 1)()
		time.Sleep(time.Second)
		if m, ok := other.member("reader"); !ok || !m.reads {
			t.Fatalf("before: known %v, reads %v", ok, m.reads)
		}
		var wg sync.WaitGroup
		wg.Go(func() { c.download(t, reader) })
		time.Sleep(200 * time.Millisecond)
		if m, ok := other.member("reader"); !ok || m.reads {
			t.Errorf("while it fetches: known %v, reads %v", ok, m.reads)
		}
		wg.Wait()
	})
}

func TestWhatIsNoLongerSharedIsToldOnceNobodyNeedsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(64, 4<<10)
		defer c.end()
		seed := c.add(t, "seed", "", 100*mbit, true)
		reader := c.add(t, "reader", "", 100*mbit, false)
		stop := reader.read(t, 10)
		time.Sleep(time.Second)
		reader.swarm.Unshare(c.table.Root)
		time.Sleep(time.Second)
		if _, ok := seed.member("reader"); !ok {
			t.Error("an flist that is read was left")
		}
		stop()
		reader.swarm.Unshare(c.table.Root)
		time.Sleep(time.Second)
		if _, ok := seed.member("reader"); ok {
			t.Error("the seed was not told that the flist was left")
		}
		if reader.swarm.Members(c.table.Root) != 0 {
			t.Error("the flist is still shared")
		}
		stop = reader.read(t, 12)
		defer stop()
		time.Sleep(time.Second)
		if m, ok := seed.member("reader"); !ok || m.n != 12 {
			t.Errorf("after sharing again: known %v, %d chunks", ok, m.n)
		}
		if m, ok := reader.member("seed"); !ok || m.n != 64 {
			t.Errorf("the reader knows of the seed: %v, %d chunks", ok, m.n)
		}
	})
}

func TestSharesThatNobodyNeedsMakeRoomForNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(8, 4<<10)
		defer c.end()
		seed := c.add(t, "seed", "", 100*mbit, true)
		reader := c.add(t, "reader", "", 100*mbit, false)
		stop := reader.read(t, 1)
		time.Sleep(time.Second)
		stop()
		for i := range maxShares {
			time.Sleep(time.Second)
			if err := reader.swarm.Share(ChunkTable{Root: chunk.Sum([]byte{byte(i)}), IDs: c.table.IDs}, nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if _, ok := seed.member("reader"); ok {
			t.Error("the seed was not told that the flist was left")
		}
	})
}
