package swarm

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A cold read takes one round trip and the time of one chunk, by this package
// alone: whoever is known to hold it is asked at once, whatever the size of the
// table, and nothing is asked before.
func TestAColdReadTakesOneRoundTripAndTheTimeOfItsChunk(t *testing.T) {
	for _, chunks := range []int{16, 4096} {
		for _, known := range []string{"by its bitmap", "by the flist's providers"} {
			t.Run(fmt.Sprintf("%d chunks, holder known %s", chunks, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCrowd(chunks, 4<<10)
					defer c.end()
					c.up["home"], c.up["edge"] = &link{rate: 1000 * mbit}, &link{rate: mbit}
					seed := c.add(t, "seed", "home", 1000*mbit, true)
					reader := c.add(t, "reader", "edge", 1000*mbit, false)
					if known == "by its bitmap" {
						if err := reader.swarm.Share(c.table, nil); err != nil {
							t.Fatal(err)
						}
						all := newBitmap(chunks)
						for i := range chunks {
							all.set(uint32(i))
						}
						reader.swarm.Hear("seed", exchange.Message{Kind: exchange.Hello, Site: "home"})
						reader.swarm.Hear("seed", exchange.Message{Kind: exchange.Join, Root: c.table.Root, Chunks: uint32(chunks), Have: all.bytes(chunks)})
					} else {
						l := &lookup{peers: []peer.ID{"seed"}, found: 1, at: time.Now(), ttl: time.Hour, watch: map[chan struct{}]struct{}{}}
						reader.swarm.providers.lookups[c.table.Root] = l
					}
					for i := range 4 {
						began := time.Now()
						if _, _, err := reader.swarm.GetPacked(t.Context(), c.table.IDs[i*chunks/4], Waiting, Hint{Root: c.table.Root}); err != nil {
							t.Fatal(err)
						}
						took := time.Since(began)
						carried := 3*seed.out.takes(c.size) + c.up["edge"].takes(c.size)
						if took != 2*crowdDelay+carried {
							t.Errorf("read %d took %s, want a round trip of %s and %s", i, took, 2*crowdDelay, carried)
						}
					}
					if seed.sent != 4 {
						t.Errorf("%d chunks were sent for 4 reads", seed.sent)
					}
				})
			})
		}
	}
}

// takes is how long n bytes take on the link.
func (l *link) takes(n int) time.Duration {
	return time.Duration(float64(n) / l.rate * float64(time.Second))
}
