package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/swarm"
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
	defer im.Close()
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

func TestCopiesAreKeptAtTheSiteAndNotByAll(t *testing.T) {
	t.Parallel() // it waits most of the time
	nodes := startSite(t, 4, nil)
	dir, _ := sample(t, 40)
	cid := packed(t, nodes[0], dir)
	var seen []api.Replication
	res, err := serve(t, nodes[0]).Replicate(t.Context(), api.ReplicateRequest{FList: cid, Copies: 2}, func(r api.Replication) { seen = append(seen, r) })
	must(t, err)
	if len(seen) == 0 || seen[0].OK() || seen[0].CID != cid {
		t.Errorf("%d reports while copies are made: %+v", len(seen), seen)
	}
	if !res.OK() || res.Nodes < 2 || res.Made != 2*res.Chunks || res.Problem != "" {
		t.Errorf("two copies among four: %+v", res)
	}
	if least, _ := stored(t, cid, nodes[0], nodes...); least < 2 {
		t.Errorf("a chunk is held by %d nodes", least)
	}
	im, err := nodes[0].load(t.Context(), cid)
	must(t, err)
	defer im.Close()
	data := 0
	for _, n := range nodes {
		_, held, err := n.table(t.Context(), im)
		must(t, err)
		data += len(held)
	}
	if data > 3*im.NumChunks() { // 2 as a rule: what nodes see at the same moment may differ
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
	if res = replicate(t, nodes[1], cid, 0); res.Copies != 3 {
		t.Errorf("as many as are wished already: %+v", res)
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

func TestWhatIsKeptForOthersIsBoundedAndTheRestIsSaid(t *testing.T) {
	t.Parallel() // it waits most of the time
	const bound = 2 << 20
	nodes := startSite(t, 4, func(i int, c *Config) {
		switch i {
		case 1, 2:
			c.ReplicateMax = bound
		case 3:
			c.ReplicateMax = 0
		}
	})
	dir, _ := sample(t, 41)
	cid := packed(t, nodes[0], dir)
	_, err := nodes[0].Replicate(t.Context(), api.ReplicateRequest{FList: cid, Copies: 3, NoWait: true}, nil)
	must(t, err)
	waitFor(t, "the bounds to be reached", func() bool {
		all, err := nodes[0].Replications(t.Context())
		return err == nil && len(all) == 1 && all[0].Nodes == 3 && all[0].Takers == 1 && all[0].Fewer > 0 && all[0].None == 0
	})
	res := replicate(t, nodes[0], cid, 3)
	if res.OK() || !strings.Contains(res.Problem, "takes more") {
		t.Errorf("with bounds: %+v", res)
	}
	for _, n := range nodes[1:3] {
		n.wishes.mu.Lock()
		kept := n.wishes.kept
		n.wishes.mu.Unlock()
		st, err := n.store.Stats(t.Context())
		must(t, err)
		if kept > bound || kept < bound-2<<20 || st.PackedBytes > bound {
			t.Errorf("%d bytes are kept and %d stored, the bound is %d", kept, st.PackedBytes, bound)
		}
	}
	if all, err := nodes[3].Replications(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("a node that keeps nothing for others has %+v, %v", all, err)
	}
	if st, err := nodes[3].store.Stats(t.Context()); err != nil || st.Chunks > 0 {
		t.Errorf("a node that keeps nothing for others holds %d chunks, %v", st.Chunks, err)
	}
	// The bound is for others: a node's own user may wish what he likes.
	if _, err := nodes[3].Replicate(t.Context(), api.ReplicateRequest{FList: cid, Copies: 2, NoWait: true}, nil); err != nil {
		t.Error(err)
	}
	waitFor(t, "two copies", func() bool {
		all, err := nodes[0].Replications(t.Context())
		return err == nil && len(all) == 1 && all[0].Copies == 2 && all[0].OK()
	})
	if res := replicate(t, nodes[3], cid, 2); !res.OK() {
		t.Errorf("two copies: %+v", res)
	}
}

func TestChunkThatIsNowhereIsCountedAndTheOthersAreCopied(t *testing.T) {
	t.Parallel() // it waits most of the time
	nodes := startSite(t, 2, func(_ int, c *Config) { c.ReadTimeout, c.FetchTimeout = time.Second, 3*time.Second })
	dir, _ := sample(t, 42)
	cid := packed(t, nodes[0], dir)
	im, err := nodes[0].load(t.Context(), cid)
	must(t, err)
	defer im.Close()
	id, _ := im.Chunk(3)
	must(t, nodes[0].store.Delete(t.Context(), id))
	_, err = nodes[0].Replicate(t.Context(), api.ReplicateRequest{FList: cid, Copies: 2, NoWait: true}, nil)
	must(t, err)
	waitFor(t, "all others to be copied", func() bool {
		all, err := nodes[0].Replications(t.Context())
		return err == nil && len(all) == 1 && all[0].None == 1 && all[0].Enough == all[0].Chunks-1 && all[0].Made == 2*all[0].Chunks-2
	})
	if res := replicate(t, nodes[0], cid, 2); res.OK() || res.None != 1 || res.Problem == "" {
		t.Errorf("without a chunk: %+v", res)
	}
	waitFor(t, "it to be searched for in vain", func() bool {
		return slices.ContainsFunc(nodes, func(n *Node) bool {
			all, err := n.Replications(t.Context())
			return err == nil && len(all) == 1 && all[0].Lost == 1 && strings.Contains(all[0].Problem, "found nowhere")
		})
	})
}

func TestWishOutlivesTheDaemonAndWhatIsWrittenOfIt(t *testing.T) {
	cfg := testConfig(t.TempDir())
	replicates(&cfg)
	dir, _ := sample(t, 43)
	var cid string
	run := func(name string, do func(n *Node)) {
		t.Run(name, func(t *testing.T) {
			do(startNode(t, name, func(c *Config) { *c = cfg }))
		})
	}
	run("first", func(n *Node) {
		cid = packed(t, n, dir)
		if res := replicate(t, n, cid, 1); !res.OK() {
			t.Errorf("one copy: %+v", res)
		}
		if !n.reserve(1000) {
			t.Error("1000 bytes are too much")
		}
	})
	run("second", func(n *Node) {
		waitFor(t, "the wish to be fulfilled again", func() bool {
			all, err := n.Replications(t.Context())
			return err == nil && len(all) == 1 && all[0].CID == cid && all[0].Here && all[0].OK()
		})
		if n.wishes.kept != 1000 {
			t.Errorf("%d bytes are kept for others, were 1000", n.wishes.kept)
		}
		must(t, n.StopReplicating(t.Context(), cid))
	})
	run("third", func(n *Node) {
		if all, err := n.Replications(t.Context()); err != nil || len(all) > 0 {
			t.Errorf("after the wish was taken back: %+v, %v", all, err)
		}
		rec, known := n.wishes.get(chunkOf(t, cid))
		if !known || rec.Version == 0 {
			t.Errorf("it is not remembered that the wish was taken back: %+v", rec)
		}
	})
}

func chunkOf(t *testing.T, s string) chunk.ID {
	t.Helper()
	c, err := cid.Decode(s)
	must(t, err)
	return rootID(c)
}

func TestWishesThatAreRefused(t *testing.T) {
	n := startNode(t, "a", nil)
	nobody := "bafyreibvjvcv745gig4mvqs4hctx4zfkono4rjejm2ta6gtyzkqxfjeily"
	req := api.ReplicateRequest{FList: nobody, Copies: 2}
	if _, err := n.Replicate(t.Context(), req, nil); api.CodeOf(err) != api.NoDaemon {
		t.Errorf("on a node that does not stay: %v", err)
	}
	n = startNode(t, "b", func(c *Config) {
		replicates(c)
		c.ReadTimeout, c.FetchTimeout = time.Second, time.Second
	})
	for copies, want := range map[int]api.Code{-1: api.Invalid, 65: api.Invalid, 2: api.NotFound, 0: api.NotFound} {
		req.Copies = copies
		if _, err := n.Replicate(t.Context(), req, nil); api.CodeOf(err) != want {
			t.Errorf("%d copies of an flist nobody has: %v, want %s", copies, err, want)
		}
	}
	if all, err := n.Replications(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("refused wishes are listed: %+v, %v", all, err)
	}
}

func TestOfWishesOfPeersTheNewestCountsAndNoneIsOfTheFuture(t *testing.T) {
	n := startNode(t, "a", nil) // nobody works on the wishes
	now := uint64(time.Now().UnixMilli())
	root := cid.NewCidV1(cid.DagCBOR, chunk.Sum([]byte("an flist")).Multihash())
	id := rootID(root)
	tell := func(version uint64, copies int) wishRecord {
		n.wishes.hear("", swarm.Keep{Root: id, Version: version, Copies: copies})
		n.heed()
		rec, _ := n.wishes.get(id)
		return rec
	}
	for _, step := range []struct {
		version uint64
		copies  int
		want    int // copies
		why     string
	}{
		{now, 0, 0, "what was never wished is not taken back"},
		{now, 2, 2, "a new wish"},
		{now - 5, 3, 2, "an older one"},
		{now, 1, 2, "of the same version the one for more copies counts"},
		{now, 4, 4, "of the same version the one for more copies counts"},
		{now + 48*3600*1000, 5, 4, "of the day after tomorrow"},
		{1<<64 - 1, 5, 4, "the last version there is"},
		{now + 1, 65, 4, "too many copies"},
		{now + 1, 0, 0, "taken back"},
		{now, 4, 0, "the old one again"},
		{now + 2, 1, 1, "wished again"},
	} {
		if rec := tell(step.version, step.copies); rec.Copies != step.want {
			t.Errorf("%s: %d copies are wished, want %d", step.why, rec.Copies, step.want)
		}
	}
	for i := range 2 * maxWishes {
		n.wishes.hear("", swarm.Keep{Root: chunk.Sum([]byte{byte(i)}), Version: now, Copies: 1})
		n.heed()
	}
	if got := n.wishes.active(false); got != maxWishes {
		t.Errorf("%d wishes of others are heeded, want %d", got, maxWishes)
	}
	for i := range 2 * maxEnded {
		root := cid.NewCidV1(cid.DagCBOR, chunk.Sum([]byte{1, byte(i)}).Multihash())
		must(t, n.setWish(root, wishRecord{Version: now + uint64(i)}))
	}
	if all, want := len(n.wishes.all), maxWishes+maxEnded; all != want {
		t.Errorf("%d wishes are known, want %d", all, want)
	}
	again, err := loadWishes(n.store, 0)
	if err != nil || len(again.all) != len(n.wishes.all) {
		t.Errorf("%d wishes are on disk, %v", len(again.all), err)
	}
}
