package swarm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/p2p/limit"
)

func TestADownloadKeepsToItsLimitAndWastesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(256, 128<<10) // 32 MiB
		defer c.end()
		c.add(t, "seed 1", "", 1000*mbit, true)
		c.add(t, "seed 2", "", 1000*mbit, true)
		node := c.add(t, "node", "", 1000*mbit, false)
		node.swarm.cfg.Download = limit.New(4 << 20)
		took := longest(c.download(t, node))
		if took < 7*time.Second || took > 10*time.Second {
			t.Errorf("32 MiB at 4 MiB/s took %s of virtual time", took)
		}
		if node.received > 260 {
			t.Errorf("%d chunks received, needed were 256", node.received)
		}
	})
}
