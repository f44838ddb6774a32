package exchange

import (
	"testing"
	"time"

	"github.com/flistnode/flistnode/p2p/limit"
)

func TestWhatIsSentCountsTowardsTheLimitOfItsClass(t *testing.T) {
	const rate, size = 64 << 10, 768 << 10
	for class, urgentRoom := range map[Class]bool{Waiting: false, Readahead: false, Prefetch: true, Replication: true} {
		store, ids := storeOf(1, size)
		l := limit.New(rate) // of a burst of 1 MiB
		cl, _, p := serve(t, store, ServerConfig{Upload: l}, ClientConfig{})
		at := time.Now()
		if _, err := cl.Get(ctxOf(t), p, ids[0], class); err != nil {
			t.Fatal(err)
		}
		// At the time of the request, so that nothing was earned back.
		if got := l.Room(at, 512<<10, true); got != urgentRoom {
			t.Errorf("%s: room for urgent chunks %v, want %v", class, got, urgentRoom)
		}
		if l.Room(at, 512<<10, false) {
			t.Errorf("%s: bulk has room as if nothing was sent", class)
		}
	}
}
