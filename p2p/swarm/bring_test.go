package swarm

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// read lets nodes read all chunks in order, each several at a time as an
// application with readahead does, and returns how long each took.
func (c *crowd) read(t *testing.T, nodes ...*crowdNode) map[peer.ID]time.Duration {
	took := map[peer.ID]time.Duration{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range nodes {
		if err := n.swarm.Share(c.table, nil); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { n.swarm.Attend(t.Context(), c.table.Root) })
	}
	time.Sleep(time.Second) // until they know one another
	var readers sync.WaitGroup
	for _, n := range nodes {
		readers.Go(func() {
			began := time.Now()
			next := make(chan int)
			var workers sync.WaitGroup
			for range 4 {
				workers.Go(func() {
					for i := range next {
						n.readOne(t, i)
					}
				})
			}
			for i := range c.table.IDs {
				next <- i
			}
			close(next)
			workers.Wait()
			mu.Lock()
			defer mu.Unlock()
			took[n.id] = time.Since(began)
		})
	}
	readers.Wait()
	return took
}

func (n *crowdNode) readOne(t *testing.T, i int) {
	id := n.c.table.IDs[i]
	if _, _, err := n.swarm.GetPacked(t.Context(), id, Waiting, Hint{Root: n.c.table.Root}); err != nil {
		if !n.isFrozen() {
			t.Errorf("%s, chunk %d: %v", n.id, i, err)
		}
		return
	}
	n.mu.Lock()
	n.have[id] = true
	n.mu.Unlock()
	n.swarm.Came(id)
}

// readers makes a site "a" of four nodes behind 20 Mbit/s, and a seed beyond.
func readers(t *testing.T, c *crowd) (nodes []*crowdNode) {
	c.up["home"] = &link{rate: 1000 * mbit}
	c.up["a"] = &link{rate: 20 * mbit}
	c.add(t, "seed", "home", 1000*mbit, true)
	for i := range 4 {
		nodes = append(nodes, c.add(t, peer.ID(fmt.Sprintf("node %02d", i)), "a", 1000*mbit, false))
	}
	return nodes
}

func TestNodesOfASiteThatReadTheSameShareTheUplink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(256, 64<<10)
		defer c.end()
		nodes := readers(t, c)
		last := longest(c.read(t, nodes...))
		n := len(c.table.IDs)
		floor := time.Duration(float64(n*c.size) / (20 * mbit) * float64(time.Second))
		t.Logf("each chunk crossed the uplink %.3f times, last reader %s, floor %s (%.2f)",
			float64(c.up["a"].done)/float64(n), last, floor, last.Seconds()/floor.Seconds())
		if c.up["a"].done > n*105/100 {
			t.Errorf("%d chunks crossed the uplink, needed were %d", c.up["a"].done, n)
		}
		if last > floor*125/100 {
			t.Errorf("the last reader took %s, the uplink alone %s", last, floor)
		}
	})
}

func TestReadersDoNotWaitLongForANodeThatDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(256, 64<<10)
		defer c.end()
		nodes := readers(t, c)
		floor := time.Duration(float64(len(c.table.IDs)*c.size) / (20 * mbit) * float64(time.Second))
		time.AfterFunc(time.Second+floor/3, nodes[0].freeze)
		took := c.read(t, nodes...)
		delete(took, nodes[0].id)
		last := longest(took)
		t.Logf("last reader %s, the uplink alone %s", last, floor)
		if last > floor*125/100+5*time.Second {
			t.Errorf("the last reader took %s, the uplink alone %s", last, floor)
		}
	})
}
