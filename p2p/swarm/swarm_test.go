package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// network is an Asker and a Finder in memory.
type network struct {
	mu        sync.Mutex
	peers     map[peer.ID]*fakePeer
	providers map[chunk.ID][]peer.ID
	findDelay time.Duration
	lookups   map[chunk.ID]int
	arrived   func(peer.ID, Class) time.Time // Config.Arrived
}

// fakePeer answers from have. answer, if set, decides instead.
type fakePeer struct {
	have   map[chunk.ID][]byte
	delay  time.Duration
	answer func(ctx context.Context, id chunk.ID, class Class) (chunk.Packed, error)

	mu    sync.Mutex
	asked int
}

func newNetwork() *network {
	return &network{
		peers: map[peer.ID]*fakePeer{}, providers: map[chunk.ID][]peer.ID{}, lookups: map[chunk.ID]int{},
	}
}

func (n *network) add(name peer.ID, delay time.Duration, contents ...string) *fakePeer {
	p := &fakePeer{have: map[chunk.ID][]byte{}, delay: delay}
	for _, c := range contents {
		p.have[chunk.Sum([]byte(c))] = []byte(c)
	}
	n.peers[name] = p
	return p
}

func (n *network) provide(content string, peers ...peer.ID) chunk.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := chunk.Sum([]byte(content))
	n.providers[id] = peers
	return id
}

func (n *network) Get(ctx context.Context, p peer.ID, id chunk.ID, class Class) (chunk.Packed, error) {
	fp := n.peers[p]
	if fp == nil {
		return chunk.Packed{}, errors.New("no route to peer")
	}
	fp.mu.Lock()
	fp.asked++
	fp.mu.Unlock()
	if fp.answer != nil {
		return fp.answer(ctx, id, class)
	}
	select {
	case <-time.After(fp.delay):
	case <-ctx.Done():
		return chunk.Packed{}, ctx.Err()
	}
	data, ok := fp.have[id]
	if !ok {
		return chunk.Packed{}, exchange.ErrMissing
	}
	return plainChunk(id, data), nil
}

// plainChunk packs without compressing: a pooled decoder belongs to the bubble
// it was first used in.
func plainChunk(id chunk.ID, data []byte) chunk.Packed {
	return chunk.Packed{ID: id, Size: len(data), Bytes: data}
}

func (p *fakePeer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func stall(ctx context.Context, _ chunk.ID, _ Class) (chunk.Packed, error) {
	<-ctx.Done()
	return chunk.Packed{}, ctx.Err()
}

func lie(_ context.Context, id chunk.ID, _ Class) (chunk.Packed, error) {
	return plainChunk(id, []byte("something else")), nil
}

func (n *network) FindProviders(ctx context.Context, id chunk.ID, max int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	n.mu.Lock()
	n.lookups[id]++
	peers := n.providers[id]
	n.mu.Unlock()
	go func() {
		defer close(out)
		select {
		case <-time.After(n.findDelay):
		case <-ctx.Done():
			return
		}
		for _, p := range peers[:min(len(peers), max)] {
			select {
			case out <- peer.AddrInfo{ID: p}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// inBubble runs f in virtual time with a swarm on n, and ends the swarm.
func inBubble(t *testing.T, n *network, f func(t *testing.T, s *Swarm)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Asker: n, Finder: n, Self: "self", Arrived: n.arrived})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Run(ctx) })
		f(t, s)
		cancel()
		wg.Wait()
	})
}

func mustGet(t *testing.T, s *Swarm, content string, hints ...Hint) {
	t.Helper()
	p, plain, err := s.GetPacked(t.Context(), chunk.Sum([]byte(content)), Waiting, hints...)
	if err != nil {
		t.Error(err)
		return
	}
	if string(plain) != content || p.ID != chunk.Sum([]byte(content)) {
		t.Errorf("got %q, want %q", plain, content)
	}
}

func statsOf(s *Swarm, p peer.ID) PeerStats {
	for _, st := range s.Stats().Peers {
		if st.ID == p {
			return st
		}
	}
	return PeerStats{}
}

func TestChunkIsFoundByItsOwnCID(t *testing.T) {
	n := newNetwork()
	n.add("a", time.Millisecond, "x")
	n.provide("x", "self", "a")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		mustGet(t, s, "x")
		st := statsOf(s, "a")
		if st.Chunks != 1 || st.BytesReceived != 1 || st.RTT != time.Millisecond {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestProvidersOfTheFlistAreAskedWithoutFurtherLookups(t *testing.T) {
	n := newNetwork()
	n.findDelay = 50 * time.Millisecond
	n.add("a", time.Millisecond, "x", "y")
	root := n.provide("root", "a")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		mustGet(t, s, "x", Hint{Root: root})
		mustGet(t, s, "y", Hint{Root: root})
		if len(n.lookups) != 1 || n.lookups[root] != 1 {
			t.Errorf("lookups %v, want one of the root", n.lookups)
		}
	})
}

func TestChunkItsFlistsProvidersLackIsLookedUp(t *testing.T) {
	n := newNetwork()
	n.add("a", time.Millisecond)
	n.add("b", time.Millisecond, "x")
	root := n.provide("root", "a")
	n.provide("x", "b")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		mustGet(t, s, "x", Hint{Root: root})
		if st := statsOf(s, "a"); st.Missing != 1 || st.Failures != 0 {
			t.Errorf("stats of a: %+v", st)
		}
	})
}

func TestLiarIsFoundOutAtOnceAndLeftAlone(t *testing.T) {
	n := newNetwork()
	n.add("liar", 0).answer = lie
	n.add("honest", time.Millisecond, "x", "y")
	n.provide("x", "liar", "honest")
	n.provide("y", "liar", "honest")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		hint := Hint{Peers: []peer.ID{"liar"}}
		mustGet(t, s, "x", hint)
		mustGet(t, s, "y", hint)
		st := statsOf(s, "liar")
		if n.peers["liar"].count() != 1 || st.Chunks != 0 || st.Reason == "" {
			t.Errorf("liar asked %d times, stats %+v", n.peers["liar"].count(), st)
		}
		if left := time.Until(st.QuarantinedUntil); left < 50*time.Second || left > lieFirst {
			t.Errorf("quarantined for %s", left)
		}
		if got := s.Stats().Corrupt; got != 1 {
			t.Errorf("corrupt = %d", got)
		}
		// A second lie costs more than the first.
		time.Sleep(lieFirst)
		n.providers[chunk.Sum([]byte("z"))] = []peer.ID{"liar", "honest"}
		n.peers["honest"].have[chunk.Sum([]byte("z"))] = []byte("z")
		mustGet(t, s, "z", hint)
		if left := time.Until(statsOf(s, "liar").QuarantinedUntil); left < 3*lieFirst {
			t.Errorf("second quarantine %s", left)
		}
	})
}

func TestOnlyALiarIsNotFoundAndNothingUnverified(t *testing.T) {
	n := newNetwork()
	n.add("liar", 0).answer = lie
	n.provide("x", "liar")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		_, err := s.Get(t.Context(), chunk.Sum([]byte("x")))
		if !errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), "corrupt") {
			t.Errorf("Get = %v", err)
		}
	})
}

func TestLatePeerIsHedgedAndStalledPeerReplaced(t *testing.T) {
	n := newNetwork()
	n.add("stalls", 0).answer = stall
	n.add("good", 5*time.Millisecond, "x", "y")
	n.provide("x", "good")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		began := time.Now()
		mustGet(t, s, "x", Hint{Peers: []peer.ID{"stalls"}})
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %s", took)
		}
		if got := s.Stats().Hedged; got != 1 {
			t.Errorf("hedged = %d", got)
		}
	})
}

func TestWhoseBytesComeIsNotLate(t *testing.T) {
	const takes = 3 * firstHedge
	for name, c := range map[string]struct {
		comes  time.Duration // between bytes
		takes  time.Duration
		hedged uint64
	}{
		"as they come": {firstHedge / 2, takes, 0},
		"none":         {time.Hour, takes, 1},
		"a trickle":    {firstHedge / 2, 10 * trickle * firstHedge, 1},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork()
			id := n.provide("x", "other")
			n.add("other", time.Millisecond, "x")
			var asked atomic.Int64 // UnixNano
			n.add("sends", 0).answer = func(ctx context.Context, _ chunk.ID, _ Class) (chunk.Packed, error) {
				asked.Store(time.Now().UnixNano())
				select {
				case <-time.After(c.takes):
					return plainChunk(id, []byte("x")), nil
				case <-ctx.Done():
					return chunk.Packed{}, ctx.Err()
				}
			}
			n.arrived = func(p peer.ID, _ Class) time.Time {
				if p != "sends" {
					return time.Time{}
				}
				at := time.Unix(0, asked.Load())
				return at.Add(time.Since(at).Truncate(c.comes))
			}
			inBubble(t, n, func(t *testing.T, s *Swarm) {
				mustGet(t, s, "x", Hint{Peers: []peer.ID{"sends"}})
				if got := s.Stats().Hedged; got != c.hedged {
					t.Errorf("hedged %d times, want %d", got, c.hedged)
				}
			})
		})
	}
}

func TestStallingPeerAloneIsTimedOut(t *testing.T) {
	n := newNetwork()
	n.add("stalls", 0).answer = stall
	n.provide("x", "stalls")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		began := time.Now()
		_, err := s.Get(t.Context(), chunk.Sum([]byte("x")))
		if !errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), "stalled") {
			t.Errorf("Get = %v", err)
		}
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("took %s", took)
		}
		if st := statsOf(s, "stalls"); st.Failures == 0 || st.InFlight != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestSlowPeerIsWaitedFor(t *testing.T) {
	n := newNetwork()
	var served int
	n.add("slow", 0).answer = func(ctx context.Context, id chunk.ID, _ Class) (chunk.Packed, error) {
		n.mu.Lock()
		served++
		wait := time.Duration(served) * 3 * time.Second // one after the other
		n.mu.Unlock()
		select {
		case <-time.After(wait):
			return plainChunk(id, contentOf[id]), nil
		case <-ctx.Done():
			return chunk.Packed{}, ctx.Err()
		}
	}
	root := n.provide("root", "slow")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		var ids []chunk.ID
		for i := range 12 { // the last one comes after 36 s
			data := fmt.Appendf(nil, "%02d", i)
			ids = append(ids, chunk.Sum(data))
			contentOf[chunk.Sum(data)] = data
		}
		got := 0
		err := s.FetchMany(t.Context(), ids, root, Prefetch, func(chunk.Packed, []byte) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			got++
			return nil
		})
		if err != nil || got != 12 {
			t.Errorf("%d chunks, %v", got, err)
		}
	})
}

var contentOf = map[chunk.ID][]byte{}

func TestNotFoundSaysWhomItAsked(t *testing.T) {
	n := newNetwork()
	n.add("a", time.Millisecond)
	id := n.provide("x", "a", "gone")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		began := time.Now()
		_, err := s.Get(t.Context(), id)
		var nf *NotFoundError
		if !errors.As(err, &nf) || !errors.Is(err, chunk.ErrNotFound) || nf.ID != id || len(nf.Asked) != 2 {
			t.Fatalf("Get = %v", err)
		}
		for _, want := range []string{id.String(), "does not have it", "no route to peer"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		if took := time.Since(began); took < 20*time.Second || took > 25*time.Second {
			t.Errorf("waited %s", took)
		}
		if a := n.peers["a"].count(); a < 3 || a > 10 {
			t.Errorf("peer asked %d times in 20 s", a)
		}
	})
}

func TestProviderThatComesLaterIsFound(t *testing.T) {
	n := newNetwork()
	n.add("a", time.Millisecond)
	n.add("late", time.Millisecond, "x")
	id := n.provide("x", "a")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		began := time.Now()
		time.AfterFunc(5*time.Second, func() { n.provide("x", "a", "late") })
		if _, err := s.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("found after %s", took)
		}
	})
}

func TestBusyPeerIsAskedAgain(t *testing.T) {
	n := newNetwork()
	id := n.provide("x", "a")
	left := 3
	n.add("a", 0).answer = func(context.Context, chunk.ID, Class) (chunk.Packed, error) {
		if left--; left >= 0 {
			return chunk.Packed{}, exchange.ErrBusy
		}
		return plainChunk(id, []byte("x")), nil
	}
	inBubble(t, n, func(t *testing.T, s *Swarm) { mustGet(t, s, "x") })
}

func TestOneFetchForAllWhoWait(t *testing.T) {
	n := newNetwork()
	a := n.add("a", 10*time.Millisecond, "x")
	id := n.provide("x", "a")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		impatient, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { _, err := s.Get(impatient, id); gone <- err }()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { mustGet(t, s, "x") })
		}
		synctest.Wait()
		cancel() // who began it leaves first
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled Get = %v", err)
		}
		wg.Wait()
		if a.count() != 1 {
			t.Errorf("peer asked %d times", a.count())
		}
	})
}

func TestFetchEndsWithTheLastWaiter(t *testing.T) {
	n := newNetwork()
	n.add("a", 0).answer = stall
	id := n.provide("x", "a")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Get(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get = %v", err)
		}
		synctest.Wait()
		if len(s.flights) != 0 || statsOf(s, "a").InFlight != 0 {
			t.Errorf("%d flights, in flight %d", len(s.flights), statsOf(s, "a").InFlight)
		}
	})
}

func TestReaderTakesOverWhatIsPrefetched(t *testing.T) {
	n := newNetwork()
	id := n.provide("x", "a")
	var classes []Class
	n.add("a", 0).answer = func(ctx context.Context, _ chunk.ID, class Class) (chunk.Packed, error) {
		classes = append(classes, class)
		if class > Readahead {
			return stall(ctx, id, class)
		}
		return plainChunk(id, []byte("x")), nil
	}
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		bulk := make(chan error, 1)
		go func() { _, _, err := s.GetPacked(t.Context(), id, Prefetch); bulk <- err }()
		time.Sleep(100 * time.Millisecond)
		mustGet(t, s, "x")
		if err := <-bulk; err != nil {
			t.Error(err)
		}
		if !slices.Equal(classes, []Class{Prefetch, Waiting}) {
			t.Errorf("asked as %v", classes)
		}
	})
}

func TestBulkIsSpreadOverPeers(t *testing.T) {
	n := newNetwork()
	names := []peer.ID{"a", "b", "c"}
	var contents []string
	var ids []chunk.ID
	for i := range 300 {
		c := fmt.Sprintf("chunk %d", i)
		contents = append(contents, c)
		ids = append(ids, chunk.Sum([]byte(c)))
	}
	for _, p := range names {
		n.add(p, 10*time.Millisecond, contents...)
	}
	root := n.provide("root", names...)
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		var mu sync.Mutex
		got := map[chunk.ID]bool{}
		err := s.FetchMany(t.Context(), ids, root, Prefetch, func(p chunk.Packed, plain []byte) error {
			mu.Lock()
			defer mu.Unlock()
			got[p.ID] = chunk.Verify(p.ID, plain) == nil
			return nil
		})
		if err != nil || len(got) != len(ids) {
			t.Fatalf("%d chunks, %v", len(got), err)
		}
		for _, p := range names {
			if st := statsOf(s, p); st.Chunks < 50 {
				t.Errorf("%s gave %d of 300 chunks", p, st.Chunks)
			}
		}
	})
}

// A pipe hands out chunks one after the other, as a full link does.
func pipe(n *network, each time.Duration) func(context.Context, chunk.ID, Class) (chunk.Packed, error) {
	free := make(chan struct{}, 1)
	free <- struct{}{}
	return func(ctx context.Context, id chunk.ID, _ Class) (chunk.Packed, error) {
		select {
		case <-free:
		case <-ctx.Done():
			return chunk.Packed{}, ctx.Err()
		}
		time.Sleep(each)
		free <- struct{}{}
		n.mu.Lock()
		defer n.mu.Unlock()
		return plainChunk(id, contentOf[id]), nil
	}
}

func TestFullLinksAreNotHedgedInBulk(t *testing.T) {
	n := newNetwork()
	var ids []chunk.ID
	for i := range 200 {
		data := fmt.Appendf(nil, "full link %d", i)
		ids = append(ids, chunk.Sum(data))
		contentOf[chunk.Sum(data)] = data
	}
	root := n.provide("root", "a", "b")
	synctest.Test(t, func(t *testing.T) {
		// Each link takes half a minute for what is in flight.
		for _, p := range []peer.ID{"a", "b"} {
			n.add(p, 0).answer = pipe(n, 900*time.Millisecond)
		}
		s, err := New(Config{Asker: n, Finder: n})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := s.FetchMany(t.Context(), ids, root, Prefetch, func(chunk.Packed, []byte) error { return nil }); err != nil {
			t.Error(err)
		}
		asked := n.peers["a"].count() + n.peers["b"].count()
		if asked > 210 {
			t.Errorf("asked %d times for 200 chunks, %d hedges", asked, s.Stats().Hedged)
		}
		if took := time.Since(began); took > 110*time.Second { // 90 s if both links are always full
			t.Errorf("took %s", took)
		}
		s.end()
	})
}

func TestFetchManyStopsWhenDeliverFails(t *testing.T) {
	n := newNetwork()
	n.add("a", time.Millisecond, "x", "y")
	root := n.provide("root", "a")
	full := errors.New("disk full")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		ids := []chunk.ID{chunk.Sum([]byte("x")), chunk.Sum([]byte("y"))}
		err := s.FetchMany(t.Context(), ids, root, Prefetch, func(chunk.Packed, []byte) error { return full })
		if !errors.Is(err, full) {
			t.Errorf("FetchMany = %v", err)
		}
	})
}

func TestFetchManyFetchesWhatThereIs(t *testing.T) {
	n := newNetwork()
	n.add("a", time.Millisecond, "x", "y")
	root := n.provide("root", "a")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		ids := []chunk.ID{chunk.Sum([]byte("lost")), chunk.Sum([]byte("x")), chunk.Sum([]byte("y"))}
		var mu sync.Mutex
		var got []byte
		err := s.FetchMany(t.Context(), ids, root, Prefetch, func(_ chunk.Packed, plain []byte) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, plain...)
			return nil
		})
		var nf *NotFoundError
		if !errors.As(err, &nf) || nf.ID != ids[0] || len(got) != 2 || !bytes.ContainsAny(got, "x") {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestEndedSwarmSaysSo(t *testing.T) {
	n := newNetwork()
	n.add("a", 0).answer = stall
	id := n.provide("x", "a")
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Asker: n, Finder: n})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() { _, err := s.Get(t.Context(), id); got <- err }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = s.Run(ctx)
		if err := <-got; !errors.Is(err, ErrEnded) {
			t.Errorf("Get in flight = %v", err)
		}
		if _, err := s.Get(t.Context(), id); !errors.Is(err, ErrEnded) {
			t.Errorf("Get after the end = %v", err)
		}
	})
}

func TestFailingPeersAreLeftAloneForLonger(t *testing.T) {
	b := newPeerBook(nil)
	now := time.Now()
	var waits []time.Duration
	for range 8 {
		b.begin("p", Waiting, now)
		b.failed("p", Waiting, "broken", now)
		until := b.peers["p"].until
		waits = append(waits, until.Sub(now))
		now = until
	}
	if fmt.Sprint(waits) != "[1s 2s 4s 8s 16s 32s 1m0s 1m0s]" {
		t.Errorf("quarantines %v", waits)
	}
	b.begin("p", Waiting, now)
	b.delivered("p", Waiting, 10, time.Millisecond, now)
	b.begin("p", Waiting, now)
	b.failed("p", Waiting, "broken", now)
	if got := b.peers["p"].until.Sub(now); got != failFirst {
		t.Errorf("after a success: %s", got)
	}
}

func TestFasterPeerIsPreferred(t *testing.T) {
	n := newNetwork()
	var ids []chunk.ID
	var contents []string
	for i := range 400 {
		c := strings.Repeat(fmt.Sprint(i), 1000)
		contents = append(contents, c)
		ids = append(ids, chunk.Sum([]byte(c)))
	}
	n.add("fast", 2*time.Millisecond, contents...)
	n.add("slow", 100*time.Millisecond, contents...)
	root := n.provide("root", "fast", "slow")
	inBubble(t, n, func(t *testing.T, s *Swarm) {
		if err := s.FetchMany(t.Context(), ids, root, Prefetch, func(chunk.Packed, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		fast, slow := statsOf(s, "fast"), statsOf(s, "slow")
		if fast.Chunks < 2*slow.Chunks {
			t.Errorf("fast gave %d, slow %d", fast.Chunks, slow.Chunks)
		}
	})
}
