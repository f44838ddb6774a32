package swarm

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/peer"
)

// claimAll returns a join that claims every chunk of the table.
func (c *crowd) claimAll() exchange.Message {
	n := len(c.table.IDs)
	all := newBitmap(n)
	for i := range n {
		all.set(uint32(i))
	}
	return exchange.Message{Kind: exchange.Join, Root: c.table.Root, Chunks: uint32(n), Have: all.bytes(n)}
}

func TestAForgedBitmapCostsReadsLittle(t *testing.T) {
	for name, again := range map[string][]exchange.Kind{
		"told once":                      nil,
		"told again before each read":    {exchange.Join},
		"left and joined for each read":  {exchange.Leave, exchange.Join},
		"told the places for each again": {exchange.Have},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(64, 16<<10)
				defer c.end()
				c.up["home"], c.up["away"] = &link{rate: 100 * mbit}, &link{rate: 100 * mbit}
				c.add(t, "seed", "away", 100*mbit, true)
				forger := c.add(t, "forger", "home", 100*mbit, false)
				reader := c.add(t, "reader", "home", 100*mbit, false)
				stop := reader.read(t, 0)
				defer stop()
				tell := func(k exchange.Kind) {
					m := c.claimAll()
					m.Kind = k
					for i := range c.table.IDs {
						m.Index = append(m.Index, uint32(i))
					}
					reader.swarm.Hear(forger.id, m)
				}
				reader.swarm.Hear(forger.id, exchange.Message{Kind: exchange.Hello, Site: "home"})
				tell(exchange.Join)
				time.Sleep(time.Second) // the seed is heard of
				for _, id := range c.table.IDs {
					for _, k := range again {
						tell(k)
					}
					if _, _, err := reader.swarm.GetPacked(t.Context(), id, Waiting, Hint{Root: c.table.Root}); err != nil {
						t.Fatal(err)
					}
				}
				if got := statsOf(reader.swarm, "forger").Missing; got != 8 {
					t.Errorf("the forger was asked for %d of 64 chunks, want 8", got)
				}
				if n := reader.swarm.cfg.Offences.Of("forger").Counts[offence.Forged]; n != 1 {
					t.Errorf("it was noted %d times", n)
				}
				// After a while it is believed again, and soon not.
				time.Sleep(doubtTime)
				tell(exchange.Join)
				for _, id := range c.table.IDs {
					if _, _, err := reader.swarm.GetPacked(t.Context(), id, Waiting, Hint{Root: c.table.Root}); err != nil {
						t.Fatal(err)
					}
				}
				if got := statsOf(reader.swarm, "forger").Missing; got < 8+1 || got > 8+8 {
					t.Errorf("the forger was asked %d times in all", got)
				}
			})
		})
	}
}

func TestAPeerThatRarelyLacksWhatItToldIsBelieved(t *testing.T) {
	var tr trust
	now := time.Now()
	for i := range 1000 {
		tr.gave()
		if i%10 == 0 {
			if doubted, _ := tr.wronged(now); doubted {
				t.Fatalf("doubted after %d chunks", i)
			}
		}
	}
	for range 8 {
		tr.wronged(now)
	}
	if !now.Before(tr.until) {
		t.Error("8 wrong claims in a row raised no doubt")
	}
}

func TestForgedBitmapsDoNotHoldADownloadUp(t *testing.T) {
	run := func(forgers int) (last time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			c := newCrowd(256, 128<<10)
			defer c.end()
			c.add(t, "seed", "", 100*mbit, true)
			var nodes []*crowdNode
			for i := range 3 {
				nodes = append(nodes, c.add(t, peer.ID(fmt.Sprintf("node %d", i)), "", 100*mbit, false))
			}
			var bad []*crowdNode
			for i := range forgers {
				bad = append(bad, c.add(t, peer.ID(fmt.Sprintf("forger %d", i)), "", 100*mbit, false))
			}
			for _, n := range nodes {
				for _, f := range bad {
					n.swarm.Hear(f.id, exchange.Message{Kind: exchange.Hello})
					n.swarm.Hear(f.id, c.claimAll())
				}
			}
			last = longest(c.download(t, nodes...))
			for _, n := range nodes {
				for _, f := range bad {
					if n.swarm.cfg.Offences.Of(f.id).Counts[offence.Forged] == 0 {
						t.Errorf("%s does not name %s", n.id, f.id)
					}
				}
			}
		})
		return last
	}
	without, with := run(0), run(2)
	t.Logf("without %s, with %s: %.2f", without, with, with.Seconds()/without.Seconds())
	if with > without*130/100 {
		t.Errorf("took %s with two forgers, %s without", with, without)
	}
}

func TestABitmapOfTheWrongLengthIsForged(t *testing.T) {
	c := newCrowd(64, 16)
	defer c.end()
	n := c.add(t, "node", "", 100*mbit, true)
	m := c.claimAll()
	m.Chunks, m.Have = 8, []byte{0xff}
	n.swarm.Hear("forger", m)
	if n.swarm.Members(c.table.Root) != 0 {
		t.Error("it is a member")
	}
	if n.swarm.cfg.Offences.Of("forger").Counts[offence.Forged] != 1 {
		t.Error("it is not named")
	}
	if n.swarm.peers.usable("forger", time.Now()) {
		t.Error("it may be asked")
	}
}

func numbered(i int) chunk.ID {
	var id chunk.ID
	binary.LittleEndian.PutUint64(id[:], uint64(i)+1)
	return id
}

func TestThousandsOfFlistsOfOnePeerAreRememberedWithinBounds(t *testing.T) {
	have := make([]byte, 100<<10) // shared by all joins, so that the test itself is small
	in := newInterests(func(p peer.ID) string { return string(p) })
	in.add("quiet", exchange.Message{Root: numbered(1 << 40), Have: have})
	for i := range 5000 {
		in.add("greedy", exchange.Message{Root: numbered(i), Have: have})
		in.add("small", exchange.Message{Root: numbered(i)})
		if n, b := len(in.roots["small"]), in.bytes["greedy"]; n > 64 || b > 4<<20 {
			t.Fatalf("%d flists, %d bytes are remembered of one peer", n, b)
		}
	}
	if len(in.of[numbered(1<<40)]) != 1 {
		t.Error("what another peer told was forgotten")
	}
	for p := range 100 {
		for i := range 100 {
			in.add(peer.ID(fmt.Sprint("sybil", p)), exchange.Message{Root: numbered(i*1000 + p), Have: have})
		}
	}
	if in.all > 64<<20 || in.all < 60<<20 {
		t.Errorf("%d bytes are remembered in all, want at most %d", in.all, interestBytes)
	}
	if len(in.of[numbered(1<<40)]) != 1 {
		t.Error("what another peer told was forgotten for sybils")
	}
	sum := 0
	for p, roots := range in.roots {
		for root := range roots {
			sum += in.of[root][p].size()
			in.remove(p, root)
		}
	}
	if in.all != 0 || len(in.of)+len(in.roots)+len(in.bytes) != 0 || sum < interestBytes*9/10 {
		t.Errorf("%d bytes, %d flists, %d peers are left", in.all, len(in.of), len(in.roots))
	}
}

// told is a Teller that notes who was told.
type told struct {
	mu sync.Mutex
	of map[peer.ID]int
}

func (b *told) Hush(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.of, p)
}

func (b *told) Tell(_ context.Context, p peer.ID, m ...exchange.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of[p] += len(m)
	return nil
}

func TestJoinsOfManyFlistsLoadFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		var now, most, all atomic.Int64
		s, err := New(Config{Asker: net, Finder: net, Self: "self", Teller: &told{of: map[peer.ID]int{}},
			Held: func(context.Context, chunk.ID) (ChunkTable, []uint32, error) {
				all.Add(1)
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(time.Millisecond)
				now.Add(-1)
				return ChunkTable{}, nil, chunk.ErrNotFound
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run(ctx) })
		for i := range 3000 {
			s.Hear("greedy", exchange.Message{Kind: exchange.Join, Root: numbered(i)})
		}
		s.Hear("quiet", exchange.Message{Kind: exchange.Join, Root: numbered(1 << 40)})
		time.Sleep(10 * time.Second)
		if n := all.Load(); n < 2 || n > 64+2 {
			t.Errorf("one peer caused %d flists to be loaded", n-1)
		}
		if most.Load() > 2 {
			t.Errorf("%d were loaded at a time", most.Load())
		}
		s.shares.mu.Lock()
		if s.shares.loads != 0 {
			t.Errorf("%d loads are counted still", s.shares.loads)
		}
		if _, ok := s.shares.loading[numbered(1<<40)]; !ok {
			t.Error("the other peer's flist was not looked for")
		}
		s.shares.mu.Unlock()
		cancel()
		wg.Wait()
	})
}

func TestPeersNamedByHearsayLeaveRoomForThoseWhoTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		teller := &told{of: map[peer.ID]int{}}
		s, err := New(Config{Asker: net, Finder: net, Self: "self", Teller: teller})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run(ctx) })
		table := ChunkTable{Root: numbered(0), IDs: []chunk.ID{numbered(1)}}
		if err := s.Share(table, []uint32{0}); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			m := exchange.Message{Kind: exchange.Members, Root: table.Root}
			for k := range exchange.MaxMembers {
				m.Peers = append(m.Peers, peer.ID(fmt.Sprintf("nobody %d %d", i, k)))
			}
			s.Hear("gossip", m)
		}
		s.Hear("honest", exchange.Message{Kind: exchange.Join, Root: table.Root, Chunks: 1, Have: []byte{0}})
		time.Sleep(time.Second)
		teller.mu.Lock()
		if n := len(teller.of); n > maxHearsayTalkers+1 || teller.of["honest"] == 0 {
			t.Errorf("%d peers were told; the one who asked %d things", n, teller.of["honest"])
		}
		teller.mu.Unlock()
		cancel()
		wg.Wait()
	})
}

func TestPeersMeasuredAreRememberedWithinABound(t *testing.T) {
	b := newPeerBook(nil)
	now := time.Now()
	b.begin("busy", Waiting, now)
	for i := range maxPeers + 500 {
		b.suspect(peer.ID(fmt.Sprint("sybil", i)), "forged", now)
	}
	if got := len(b.peers); got > maxPeers {
		t.Errorf("%d peers are remembered, want %d", got, maxPeers)
	}
	if r := b.peers["busy"]; r == nil || r.requests() != 1 {
		t.Error("a peer that is being asked was forgotten")
	}
}

func TestWrongBytesAreNamed(t *testing.T) {
	n := newNetwork()
	n.add("liar", 0).answer = lie
	n.add("honest", time.Millisecond, "x")
	n.provide("x", "liar", "honest")
	book := offence.NewBook(slog.New(slog.DiscardHandler))
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		s.cfg.Offences = book
		mustGet(t, s, "x", Hint{Peers: []peer.ID{"liar"}})
	})
	if got := book.Of("liar").Counts[offence.Corrupt]; got != 1 || len(book.All()) != 1 {
		t.Errorf("corrupt chunks of the liar: %d; peers named: %d", got, len(book.All()))
	}
}
