package swarm

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// forget makes a node hold nothing any more, without a word.
func (n *crowdNode) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.have)
}

func (n *crowdNode) thaw() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen = false
}

func (n *crowdNode) sentChunks() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent
}

func TestWhatAPeerFetchedBeforeIsKnownToThoseWhoComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(128, 128<<10)
		defer c.end()
		seed := c.add(t, "seed", "", 100*mbit, true)
		first := c.add(t, "first", "", 100*mbit, false)
		later := c.add(t, "later", "", 100*mbit, false)
		c.download(t, first)
		seed.forget() // only the first has it now, and told so when it had nothing
		took := longest(c.download(t, later))
		if floor := 1342 * time.Millisecond; took > 2*floor {
			t.Errorf("took %s; at the rate of the link it takes %s", took, floor)
		}
	})
}

func TestSlowLinksAreNotTakenForSilence(t *testing.T) {
	for name, rates := range map[string]struct{ seed, nodes float64 }{
		"the seed is slow": {2 * mbit, 100 * mbit},
		"all are slow":     {2 * mbit, 2 * mbit},
		"the nodes are":    {100 * mbit, 2 * mbit},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const chunks, count = 96, 6
				c := newCrowd(chunks, 128<<10)
				defer c.end()
				seed := c.add(t, "seed", "", rates.seed, true)
				var nodes []*crowdNode
				for i := range count {
					nodes = append(nodes, c.add(t, peer.ID(rune('a'+i)), "", rates.nodes, false))
				}
				last := longest(c.download(t, nodes...))
				floor := float64(chunks*c.size) / min(rates.seed, rates.nodes)
				needless := 100 * float64(c.received()-count*chunks) / (count * chunks)
				t.Logf("last %.2f times the floor, seed sent %.2f copies, needless %.2f %%", last.Seconds()/floor,
					float64(seed.sent)/chunks, needless)
				if needless > 2 {
					t.Errorf("%.2f %% of what came was not needed", needless)
				}
			})
		})
	}
}

func TestPeerThatGoesOnIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(512, 128<<10)
		defer c.end()
		a := c.add(t, "a", "", 25*mbit, true)
		b := c.add(t, "b", "", 25*mbit, true)
		n := c.add(t, "n", "", 100*mbit, false)
		time.AfterFunc(time.Second, a.freeze)
		var before int
		time.AfterFunc(5*time.Second, func() {
			before = a.sentChunks()
			a.thaw()
		})
		took := longest(c.download(t, n))
		after := a.sentChunks() - before
		t.Logf("took %s; the one that froze gave %d chunks of %d, and %d before", took, after, 512, before)
		if after < 50 || b.sentChunks() == 512 {
			t.Errorf("the peer that went on was asked for %d chunks", after)
		}
	})
}

func TestWhoClaimsToFetchAndDoesNotIsNotBelievedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(64, 128<<10)
		defer c.end()
		c.add(t, "seed", "", 100*mbit, true)
		n := c.add(t, "n", "", 100*mbit, false)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		all := make([]uint32, len(c.table.IDs))
		for i := range all {
			all[i] = uint32(i)
		}
		for _, liar := range []peer.ID{"x", "y"} {
			l := c.add(t, liar, "", 100*mbit, false)
			l.freeze()
			n.swarm.Hear(liar, exchange.Message{Kind: exchange.Join, Root: c.table.Root, Chunks: 64, Have: make([]byte, 8)})
			wg.Go(func() { // says so without end
				for ctx.Err() == nil {
					n.swarm.Hear(liar, exchange.Message{Kind: exchange.Fetching, Root: c.table.Root, Index: all})
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		took := longest(c.download(t, n))
		cancel()
		wg.Wait()
		if took > 20*time.Second {
			t.Errorf("two who claim to fetch everything held it up for %s", took)
		}
	})
}

func TestBytesThatComeAreNotSilence(t *testing.T) {
	now := time.Now()
	var came time.Time
	b := newPeerBook(func(peer.ID, Class) time.Time { return came })
	b.begin("p", Prefetch, now)
	at := func(d time.Duration) time.Time { return now.Add(d) }
	if got := b.silentAt("p", Prefetch, firstPatience, 0, now); !got.Equal(at(firstPatience)) {
		t.Errorf("one that never answered is silent after %s", got.Sub(now))
	}
	came = at(900 * time.Millisecond)
	if got := b.silentAt("p", Prefetch, firstPatience, 0, at(1100*time.Millisecond)); !got.Equal(came.Add(firstPatience)) {
		t.Errorf("bytes came after %s, and it is silent after %s", came.Sub(now), got.Sub(now))
	}
	came = at(time.Hour) // a byte now and then is no answer
	if got := b.silentAt("p", Prefetch, firstPatience, 0, at(time.Hour)); !got.Equal(at(trickle * firstPatience)) {
		t.Errorf("one that trickles is silent after %s", got.Sub(now))
	}
	b.delivered("p", Prefetch, 1, 500*time.Millisecond, at(500*time.Millisecond))
	b.begin("p", Prefetch, at(time.Second))
	came = time.Time{}
	if got := b.silentAt("p", Prefetch, firstPatience, 0, at(time.Second)).Sub(at(time.Second)); got != patienceGaps*500*time.Millisecond {
		t.Errorf("one that let us wait 500 ms is silent after %s", got)
	}
}

func TestLosersOfAHedgeAreCounted(t *testing.T) {
	n := newNetwork()
	id := n.provide("x", "slow", "quick")
	n.add("quick", time.Millisecond, "x")
	n.add("slow", 0).answer = func(context.Context, chunk.ID, Class) (chunk.Packed, error) {
		time.Sleep(time.Second) // cancelling does not help
		return plainChunk(id, []byte("x")), nil
	}
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		mustGet(t, s, "x", Hint{Peers: []peer.ID{"slow"}})
		time.Sleep(2 * time.Second)
		if st := s.Stats(); st.BytesReceived != 1 || st.BytesNeedless > 1 || st.Hedged > 0 && st.BytesNeedless != 1 {
			t.Errorf("stats %+v", st.Totals)
		}
	})
}
