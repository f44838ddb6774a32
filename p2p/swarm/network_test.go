package swarm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/flistnode/flistnode/p2p/swarm"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// node is a whole network stack on loopback with a store in memory.
type node struct {
	*p2p.Host
	server *exchange.Server
	swarm  *swarm.Swarm
	stop   func()

	mu    sync.Mutex
	store map[chunk.ID]chunk.Packed
}

func (n *node) GetPacked(_ context.Context, id chunk.ID) (chunk.Packed, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.store[id]
	if !ok {
		return p, chunk.ErrNotFound
	}
	return p, nil
}

// hold puts contents into the store and announces them.
func (n *node) hold(t testing.TB, contents ...[]byte) (ids []chunk.ID) {
	t.Helper()
	n.mu.Lock()
	for _, c := range contents {
		p := chunk.Pack(c)
		n.store[p.ID] = p
		ids = append(ids, p.ID)
	}
	n.mu.Unlock()
	if err := n.Announce(ids...); err != nil {
		t.Fatal(err)
	}
	return ids
}

func startNode(t testing.TB, peers ...*node) *node {
	t.Helper()
	key, err := p2p.LoadIdentity(filepath.Join(t.TempDir(), "identity"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := p2p.Config{Identity: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}}
	for _, p := range peers {
		cfg.Peers = append(cfg.Peers, peer.AddrInfo{ID: p.ID(), Addrs: p.Libp2p().Addrs()})
	}
	h, err := p2p.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Host: h, store: map[chunk.ID]chunk.Packed{}}
	n.server = exchange.NewServer(h.Libp2p(), n, exchange.ServerConfig{})
	client := exchange.NewClient(h.Libp2p(), exchange.ClientConfig{StallTimeout: 2 * time.Second})
	n.swarm, err = swarm.New(swarm.Config{
		Asker: client, Finder: h, Self: h.ID(), Connected: h.Libp2p().Network().Peers,
		FindTimeout: 15 * time.Second,
		Served: func() map[peer.ID]exchange.ServerStats {
			_, peers := n.server.Stats()
			return peers
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.Run(ctx) })
	wg.Go(func() { _ = n.swarm.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		_ = client.Close()
		_ = n.server.Close()
		cancel()
		wg.Wait()
	})
	t.Cleanup(n.stop)
	for _, p := range peers {
		waitFor(t, "a connection", func() bool {
			return h.Libp2p().Network().Connectedness(p.ID()) == network.Connected
		})
	}
	return n
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func contents(n, size int, seed byte) [][]byte {
	rng := rand.NewChaCha8([32]byte{seed})
	out := make([][]byte, n)
	for i := range out {
		out[i] = make([]byte, size)
		_, _ = rng.Read(out[i])
	}
	return out
}

func TestChunkComesFromANodeFoundByItsCIDAlone(t *testing.T) {
	a := startNode(t)
	data := bytes.Repeat([]byte("flist"), 10_000)
	id := a.hold(t, data)[0]
	b := startNode(t, a)
	c := startNode(t, b) // knows only B
	got, err := c.swarm.Get(t.Context(), id)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	st := c.swarm.Stats()
	if len(st.Peers) == 0 || st.Peers[0].ID != a.ID() || st.Chunks != 1 || st.BytesReceived == 0 {
		t.Errorf("stats %+v", st)
	}
	waitFor(t, "A to count what it sent", func() bool { return a.swarm.Stats().BytesSent == st.BytesReceived })
}

func TestBulkComesFromSeveralNodes(t *testing.T) {
	data := contents(400, 30_000, 1)
	a := startNode(t)
	ids := a.hold(t, data...)
	b := startNode(t, a)
	b.hold(t, data...)
	d := startNode(t, a, b)
	d.hold(t, data...)
	c := startNode(t, a, b, d)
	root := ids[0]
	waitFor(t, "three providers of the root", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		n := 0
		for range c.FindProviders(ctx, root, 10) {
			n++
		}
		return n == 3
	})
	var got atomic.Int64
	err := c.swarm.FetchMany(t.Context(), ids, root, swarm.Prefetch, func(p chunk.Packed, plain []byte) error {
		got.Add(int64(len(plain)))
		return chunk.Verify(p.ID, plain)
	})
	if err != nil || got.Load() != 400*30_000 {
		t.Fatalf("%d bytes, %v", got.Load(), err)
	}
	for _, st := range c.swarm.Stats().Peers {
		t.Logf("%s: %d chunks, %.0f MB/s", st.ID, st.Chunks, st.Throughput/1e6)
		if st.Chunks < 20 {
			t.Errorf("%s gave only %d of 400 chunks", st.ID, st.Chunks)
		}
	}
}

func TestLyingNodeIsReplacedByAnHonestOne(t *testing.T) {
	data := contents(20, 10_000, 2)
	liar := startNode(t)
	ids := liar.hold(t, data...)
	for id, p := range liar.store {
		p.Bytes = bytes.Clone(p.Bytes)
		p.Bytes[100] ^= 1
		liar.store[id] = p
	}
	honest := startNode(t, liar)
	honest.hold(t, data...)
	c := startNode(t, liar, honest)
	for i, id := range ids {
		got, err := c.swarm.Get(t.Context(), id)
		if err != nil || !bytes.Equal(got, data[i]) {
			t.Fatalf("chunk %d: %v", i, err)
		}
	}
	st := c.swarm.Stats()
	for _, p := range st.Peers {
		if p.ID == liar.ID() && (p.Chunks != 0 || p.Failures > 1) {
			t.Errorf("liar: %+v", p)
		}
	}
	if st.Corrupt > 1 {
		t.Errorf("%d wrong chunks taken from a known liar", st.Corrupt)
	}
}

func TestStallingAndBrokenNodesAreReplaced(t *testing.T) {
	for name, handler := range map[string]network.StreamHandler{
		"stalls":    func(s network.Stream) { _, _ = io.Copy(io.Discard, s) },
		"resets":    func(s network.Stream) { _ = s.Reset() },
		"garbage":   func(s network.Stream) { _, _ = s.Write(bytes.Repeat([]byte{0xee}, 5000)) },
		"oversized": func(s network.Stream) { _, _ = s.Write([]byte{3, 0xff, 0xff, 0xff, 0xff}) },
	} {
		t.Run(name, func(t *testing.T) {
			bad := startNode(t)
			data := contents(3, 1000, 3)
			ids := bad.hold(t, data...)
			bad.Libp2p().SetStreamHandler(exchange.Protocol, handler)
			good := startNode(t, bad)
			good.hold(t, data...)
			c := startNode(t, bad, good)
			for _, id := range ids {
				// The bad one is named first.
				hint := swarm.Hint{Peers: []peer.ID{bad.ID()}}
				if _, _, err := c.swarm.GetPacked(t.Context(), id, swarm.Waiting, hint); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestNobodyHasIt(t *testing.T) {
	a := startNode(t)
	c := startNode(t, a)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	_, err := c.swarm.Get(ctx, chunk.Sum([]byte("nobody has this")))
	var nf *swarm.NotFoundError
	if !errors.As(err, &nf) || !strings.Contains(err.Error(), a.ID().String()) {
		t.Errorf("Get = %v, want to hear that A was asked", err)
	}
}

func BenchmarkFetchMany(b *testing.B) {
	for _, size := range []int{16 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			seed := startNode(b)
			ids := seed.hold(b, contents(512, size, 4)...)
			c := startNode(b, seed)
			if _, err := c.swarm.Get(context.Background(), ids[0]); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size) * int64(len(ids)))
			b.ResetTimer()
			for range b.N {
				err := c.swarm.FetchMany(context.Background(), ids, ids[0], swarm.Prefetch,
					func(chunk.Packed, []byte) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
