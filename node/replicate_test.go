package node

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/flistnode/flistnode/node/api"
)

// replicates makes a node that keeps copies, for tests that cannot wait.
func replicates(c *Config) {
	c.KeepCopies = true
	c.ReplicateGrace = 100 * time.Millisecond
}

// startSite runs nodes that all know each other and keep copies.
func startSite(t *testing.T, count int, change func(i int, c *Config)) []*Node {
	t.Helper()
	var nodes []*Node
	for i := range count {
		nodes = append(nodes, startNode(t, fmt.Sprint("node ", i), func(c *Config) {
			replicates(c)
			if change != nil {
				change(i, c)
			}
		}, nodes...))
		nodes[i].wishes.settle = time.Second
	}
	return nodes
}

// stored returns how many of nodes hold each chunk of an flist, data and
// metadata, by their stores: the least, and all together.
func stored(t *testing.T, cid string, from *Node, nodes ...*Node) (least, sum int) {
	t.Helper()
	im, err := from.load(t.Context(), cid)
	must(t, err)
	ids := im.MetadataChunks(true)
	for i := range im.NumChunks() {
		id, _ := im.Chunk(uint32(i))
		ids = append(ids, id)
	}
	least = len(nodes)
	held := make([]int, len(ids))
	for _, n := range nodes {
		has, err := n.store.HasMany(t.Context(), ids)
		must(t, err)
		for i, ok := range has {
			if ok {
				held[i]++
			}
		}
	}
	for _, h := range held {
		least, sum = min(least, h), sum+h
	}
	return least, sum
}

func replicate(t *testing.T, s api.Replicator, cid string, copies int) api.Replication {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	res, err := s.Replicate(ctx, api.ReplicateRequest{FList: cid, Copies: copies}, nil)
	must(t, err)
	return res
}

func TestCopiesAreKeptAtTheSiteAndNoMoreThanWished(t *testing.T) {
	nodes := startSite(t, 4, nil)
	dir, _ := sample(t, 40)
	cid := packed(t, nodes[0], dir)
	res := replicate(t, nodes[0], cid, 2)
	if !res.OK() || res.Nodes != 4 || res.Takers != 4 || res.Made != 2*res.Chunks || res.Problem != "" {
		t.Errorf("two copies among four: %+v", res)
	}
	if least, _ := stored(t, cid, nodes[0], nodes...); least < 2 {
		t.Errorf("a chunk is held by %d nodes", least)
	}
	im, err := nodes[0].load(t.Context(), cid)
	must(t, err)
	data := 0
	for _, n := range nodes {
		_, held, err := n.table(t.Context(), im)
		must(t, err)
		data += len(held)
	}
	if data > 2*im.NumChunks()+2 { // what two nodes see at the same moment may differ
		t.Errorf("%d copies of %d chunks", data, im.NumChunks())
	}

	res = replicate(t, nodes[2], cid, 3) // another node may want more
	if !res.OK() || res.Copies != 3 {
		t.Errorf("three copies: %+v", res)
	}
	waitFor(t, "all to know of three", func() bool {
		all, err := nodes[3].Replications(t.Context())
		return err == nil && len(all) == 1 && all[0].Copies == 3 && all[0].OK() && !all[0].Here
	})
	if err := nodes[3].Remove(t.Context(), cid); !errors.Is(err, api.ErrBusy) {
		t.Errorf("removal of an flist of which copies are kept: %v", err)
	}
	must(t, nodes[1].StopReplicating(t.Context(), cid))
	for _, n := range nodes {
		waitFor(t, "the wish to be taken back", func() bool {
			all, err := n.Replications(t.Context())
			return err == nil && len(all) == 0
		})
	}
	if err := nodes[1].StopReplicating(t.Context(), cid); api.CodeOf(err) != api.NotFound {
		t.Errorf("a wish taken back twice: %v", err)
	}
	if least, _ := stored(t, cid, nodes[0], nodes...); least < 3 {
		t.Errorf("after the wish was taken back a chunk is held by %d nodes", least)
	}
	// A wish made again is newer than the one taken back.
	if res = replicate(t, nodes[0], cid, 4); !res.OK() {
		t.Errorf("four copies: %+v", res)
	}
}
