package node

import (
	"context"
	"sync"
	"testing"

	"github.com/flistnode/flistnode/node/api"
)

func TestReaderOfAnFListIsHeardUntilItIsRemoved(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, _ := sample(t, 11)
	cid := packed(t, a, dir)
	b := startNode(t, "b", nil, a)
	im, err := b.load(t.Context(), cid)
	must(t, err)
	defer im.Close()
	must(t, b.pin(im.CID(), "", api.HowMounted))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	table, held, err := b.table(ctx, im)
	must(t, err)
	wg.Go(func() { b.attend(ctx, table, held) })
	root := rootID(im.CID())
	waitFor(t, "the holder to hear the reader", func() bool { return a.swarm.Members(root) == 1 })
	waitFor(t, "the reader to hear the holder", func() bool { return b.swarm.Members(root) == 1 })
	stop()
	wg.Wait()
	must(t, b.Remove(t.Context(), cid))
	waitFor(t, "the holder to hear that the flist was left", func() bool { return a.swarm.Members(root) == 0 })
}
