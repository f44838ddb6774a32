package swarm

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// crowd is a simulated network in virtual time: every node has a link that
// carries rate bytes a second each way; a site may have an uplink.
type crowd struct {
	table    ChunkTable
	size     int // of a chunk
	contents map[chunk.ID][]byte
	nodes    map[peer.ID]*crowdNode
	up       map[string]*link // uplinks by site
}

type crowdNode struct {
	c        *crowd
	id       peer.ID
	site     string
	swarm    *Swarm
	out, in  link
	mu       sync.Mutex
	frozen   bool // it takes requests and messages, and does nothing more
	have     map[chunk.ID]bool
	sent     int // chunks
	received int
	wasted   int // chunks that came for nobody
	crossed  int // chunks asked for at another site
}

// freeze lets a node do nothing any more.
func (n *crowdNode) freeze() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen = true
}

// waitThaw waits until the node is not frozen, or ctx ends.
func (n *crowdNode) waitThaw(ctx context.Context) {
	for n.isFrozen() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (n *crowdNode) isFrozen() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.frozen
}

// link carries one chunk after another, in turns for those who use it.
type link struct {
	mu    sync.Mutex
	rate  float64 // bytes a second
	busy  bool
	flows []peer.ID // in turn
	queue map[peer.ID][]chan struct{}
	done  int // how often it carried something
}

// carry takes n bytes for flow over the link. It reports whether it did: what
// was cancelled while it waited is not carried.
func (l *link) carry(ctx context.Context, flow peer.ID, n int) (carried bool) {
	l.mu.Lock()
	if l.busy {
		if l.queue == nil {
			l.queue = map[peer.ID][]chan struct{}{}
		}
		turn := make(chan struct{})
		if len(l.queue[flow]) == 0 {
			l.flows = append(l.flows, flow)
		}
		l.queue[flow] = append(l.queue[flow], turn)
		l.mu.Unlock()
		<-turn
	} else {
		l.busy = true
		l.mu.Unlock()
	}
	if carried = ctx.Err() == nil; carried {
		l.done++ // by who has the link to himself now
		time.Sleep(time.Duration(float64(n) / l.rate * float64(time.Second)))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.flows) == 0 {
		l.busy = false
		return carried
	}
	next := l.flows[0]
	l.flows = l.flows[1:]
	close(l.queue[next][0])
	if l.queue[next] = l.queue[next][1:]; len(l.queue[next]) > 0 {
		l.flows = append(l.flows, next)
	}
	return carried
}

const crowdDelay = time.Millisecond

func newCrowd(chunks, size int) *crowd {
	c := &crowd{size: size, nodes: map[peer.ID]*crowdNode{}, up: map[string]*link{}, contents: map[chunk.ID][]byte{}}
	c.table.Root = chunk.Sum([]byte("root"))
	for i := range chunks {
		content := make([]byte, size)
		binary.LittleEndian.PutUint32(content, uint32(i))
		id := chunk.Sum(content)
		c.table.IDs = append(c.table.IDs, id)
		c.contents[id] = content
	}
	return c
}

func (c *crowd) add(t *testing.T, id peer.ID, site string, rate float64, seed bool) *crowdNode {
	n := &crowdNode{c: c, id: id, site: site, have: map[chunk.ID]bool{}}
	n.out.rate, n.in.rate = rate, rate
	c.nodes[id] = n
	var err error
	n.swarm, err = New(Config{
		Asker: n, Finder: n, Teller: n, Self: id, Site: site,
		Connected: func() (out []peer.ID) {
			for p := range c.nodes {
				if p != id {
					out = append(out, p)
				}
			}
			return out
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if seed {
		var all []uint32
		for i, id := range c.table.IDs {
			n.have[id] = true
			all = append(all, uint32(i))
		}
		if err := n.swarm.Share(c.table, all); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n *crowdNode) Get(ctx context.Context, p peer.ID, id chunk.ID, _ Class) (chunk.Packed, error) {
	from := n.c.nodes[p]
	time.Sleep(2 * crowdDelay)
	n.waitThaw(ctx)
	from.waitThaw(ctx)
	from.mu.Lock()
	has := from.have[id]
	from.mu.Unlock()
	var path []*link
	if has {
		path = []*link{&from.out}
		if n.site != from.site {
			n.mu.Lock()
			n.crossed++
			n.mu.Unlock()
			path = append(path, n.c.up[from.site], n.c.up[n.site])
		}
		path = append(path, &n.in)
	}
	for k, l := range path {
		flow := n.id
		if k > 0 {
			flow = p
		}
		carried := l.carry(ctx, flow, n.c.size)
		if k == 0 {
			from.waitThaw(ctx)
		}
		n.waitThaw(ctx)
		if err := ctx.Err(); err != nil {
			if l == &n.in && carried {
				n.mu.Lock()
				n.wasted++
				n.mu.Unlock()
			}
			return chunk.Packed{}, err
		}
	}
	if !has {
		return chunk.Packed{}, exchange.ErrMissing
	}
	from.mu.Lock()
	from.sent++
	from.mu.Unlock()
	n.mu.Lock()
	n.received++
	n.mu.Unlock()
	return plainChunk(id, n.c.contents[id]), nil
}

func (n *crowdNode) FindProviders(context.Context, chunk.ID, int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	close(out)
	return out
}

func (n *crowdNode) Hush(peer.ID) {}

func (n *crowdNode) Tell(ctx context.Context, p peer.ID, messages ...exchange.Message) error {
	to := n.c.nodes[p]
	time.Sleep(crowdDelay)
	n.waitThaw(ctx)
	if to.isFrozen() {
		return nil // it lies in a buffer
	}
	for _, m := range messages {
		to.swarm.Hear(n.id, m)
	}
	return nil
}

// download lets nodes fetch everything at once and returns how long each took.
func (c *crowd) download(t *testing.T, nodes ...*crowdNode) map[peer.ID]time.Duration {
	took := map[peer.ID]time.Duration{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := make([]uint32, len(c.table.IDs))
	for i := range all {
		all[i] = uint32(i)
	}
	for _, n := range nodes {
		wg.Go(func() {
			began := time.Now()
			if err := n.swarm.Share(c.table, nil); err != nil {
				t.Error(err)
			}
			err := n.swarm.Download(t.Context(), c.table.Root, all, Prefetch, time.Minute, func(p chunk.Packed, _ []byte) error {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.have[p.ID] = true
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			took[n.id] = time.Since(began)
			if err != nil {
				t.Errorf("%s: %v", n.id, err)
			}
		})
	}
	wg.Wait()
	return took
}

// end ends all swarms.
func (c *crowd) end() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, n := range c.nodes {
		_ = n.swarm.Run(ctx)
	}
}

func (c *crowd) received() (sum int) {
	for _, n := range c.nodes {
		sum += n.received + n.wasted
	}
	return sum
}

func longest(took map[peer.ID]time.Duration) (most time.Duration) {
	for _, d := range took {
		most = max(most, d)
	}
	return most
}

const mbit = 1e6 / 8

func TestNodesThatStartTogetherTradeWhatTheSeedSendsOnce(t *testing.T) {
	for _, count := range []int{1, 8, crowdSize()} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(512, 128<<10)
				defer c.end()
				seed := c.add(t, "seed", "", 100*mbit, true)
				var nodes []*crowdNode
				for i := range count {
					nodes = append(nodes, c.add(t, peer.ID(fmt.Sprintf("node %02d", i)), "", 100*mbit, false))
				}
				last := longest(c.download(t, nodes...))
				floor := time.Duration(float64(len(c.table.IDs)*c.size) / (100 * mbit) * float64(time.Second))
				n := len(c.table.IDs)
				t.Logf("%d nodes: last %s, floor %s (%.2f), seed sent %.2f copies, duplicates %.2f %%", count, last, floor,
					last.Seconds()/floor.Seconds(), float64(seed.sent)/float64(n), 100*float64(c.received()-count*n)/float64(count*n))
				if seed.sent > n*110/100 {
					t.Errorf("seed sent %d chunks of %d", seed.sent, n)
				}
				if got := c.received(); got > count*n*102/100 {
					t.Errorf("%d chunks received, needed were %d", got, count*n)
				}
			})
		})
	}
}

// crowdSize is how many nodes the large crowd has: FLISTNODE_CROWD, or few
// enough to be quick.
func crowdSize() int {
	if n, err := strconv.Atoi(os.Getenv("FLISTNODE_CROWD")); err == nil {
		return n
	}
	return 16
}

// trouble is what ails a crowd: nodes beside the six that are judged.
type trouble struct {
	slow   bool
	freeze time.Duration // when one of them freezes; 0: none does
	claims bool          // it claims to hold everything
}

// downloadWith lets six nodes download beside others that are ill, and returns
// when the last of the six is done, and how many chunks too many they were sent,
// in percent.
func downloadWith(t *testing.T, chunks int, ill trouble) (last time.Duration, needless float64) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(chunks, 128<<10)
		defer c.end()
		c.add(t, "seed", "", 100*mbit, true)
		var nodes []*crowdNode
		for i := range 6 {
			nodes = append(nodes, c.add(t, peer.ID(fmt.Sprintf("node %02d", i)), "", 100*mbit, false))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		var beside []*crowdNode
		if ill.freeze > 0 {
			frozen := c.add(t, "frozen", "", 100*mbit, ill.claims)
			beside = append(beside, frozen)
			time.AfterFunc(ill.freeze, frozen.freeze)
		}
		if ill.slow {
			beside = append(beside, c.add(t, "slow", "", 10*mbit, false))
		}
		for _, n := range beside { // now that the network is whole
			wg.Go(func() { n.start(ctx) })
		}
		last = longest(c.download(t, nodes...))
		for _, n := range nodes {
			needless += float64(n.received+n.wasted-len(c.table.IDs)) / float64(len(c.table.IDs)*len(nodes)) * 100
		}
	})
	return last, needless
}

func TestStalledAndSlowNodesDoNotHoldTheOthersUp(t *testing.T) {
	const (
		early = iota + 1 // a tenth of the time passes before one freezes
		late             // eight tenths
	)
	for _, run := range []struct {
		name   string
		chunks int
		freeze int
		ill    trouble
		most   float64 // times as long as without
	}{
		// The bound is for 128 MiB: what it costs to notice is the same for less.
		{"128 MiB, one is slow, one freezes", 1024, early, trouble{slow: true}, 1.3},
		{"128 MiB, one freezes late", 1024, late, trouble{}, 1.3},
		{"16 MiB, one freezes early", 128, early, trouble{}, 2},
		{"16 MiB, one freezes late", 128, late, trouble{}, 2},
		{"16 MiB, one is slow, one freezes", 128, early, trouble{slow: true}, 2.5},
		{"16 MiB, one is slow, one claims to have all", 128, 0, trouble{slow: true, claims: true, freeze: 20 * time.Millisecond}, 2.5},
	} {
		t.Run(run.name, func(t *testing.T) {
			without := crowdTime(t, run.chunks)
			switch run.freeze {
			case early:
				run.ill.freeze = without / 10
			case late:
				run.ill.freeze = without * 8 / 10
			}
			with, needless := downloadWith(t, run.chunks, run.ill)
			ratio := with.Seconds() / without.Seconds()
			t.Logf("without %s, with %s: %.2f; needless %.2f %%", without, with, ratio, needless)
			if ratio > run.most {
				t.Errorf("took %s, and %s without", with, without)
			}
			if needless > 2 {
				t.Errorf("%.2f %% of what came was not needed", needless)
			}
		})
	}
}

// crowdTimes remembers how long it took without anything that ails.
var crowdTimes = map[int]time.Duration{}

func crowdTime(t *testing.T, chunks int) time.Duration {
	if crowdTimes[chunks] == 0 {
		crowdTimes[chunks], _ = downloadWith(t, chunks, trouble{})
	}
	return crowdTimes[chunks]
}

// start fetches everything until ctx ends.
func (n *crowdNode) start(ctx context.Context) {
	all := make([]uint32, len(n.c.table.IDs))
	for i := range all {
		all[i] = uint32(i)
	}
	_ = n.swarm.Share(n.c.table, nil)
	_ = n.swarm.Download(ctx, n.c.table.Root, all, Prefetch, time.Minute, func(p chunk.Packed, _ []byte) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.have[p.ID] = true
		return nil
	})
}

func TestAnImageCrossesAnUplinkOnce(t *testing.T) {
	const rounds = 4 // which chunks a second node takes over at the end is chance
	crossed, needed := 0, 0
	var last time.Duration
	for range rounds {
		synctest.Test(t, func(t *testing.T) {
			c := newCrowd(256, 128<<10)
			defer c.end()
			for _, site := range []string{"home", "a", "b"} {
				c.up[site] = &link{rate: 20 * mbit}
			}
			c.up["home"].rate = 1000 * mbit
			c.add(t, "seed", "home", 1000*mbit, true)
			var nodes []*crowdNode
			for i := range 8 {
				nodes = append(nodes, c.add(t, peer.ID(fmt.Sprintf("node %02d", i)), "ab"[i/4:i/4+1], 100*mbit, false))
			}
			last = max(last, longest(c.download(t, nodes...)))
			for _, n := range nodes {
				crossed += n.crossed
			}
			needed += 2 * len(c.table.IDs)
		})
	}
	t.Logf("each chunk crossed an uplink %.3f times; the last was done after %s", float64(crossed)/float64(needed), last)
	if crossed > needed*105/100 {
		t.Errorf("%d chunks crossed the uplinks, needed were %d", crossed, needed)
	}
}
