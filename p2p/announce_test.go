package p2p

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/ipfs/go-libdht/kad/key/bitstr"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"
)

// manyIDs returns n different IDs.
func manyIDs(n int, kind byte) []chunk.ID {
	ids := make([]chunk.ID, n)
	for i := range ids {
		ids[i] = chunk.Sum([]byte{byte(i), byte(i >> 8), byte(i >> 16), kind})
	}
	return ids
}

// told reports whether somebody announced id to h.
func told(t *testing.T, h *Host, id chunk.ID) bool {
	t.Helper()
	provs, err := h.dht.ProviderStore().GetProviders(t.Context(), id.Multihash())
	return err == nil && len(provs) > 0
}

func announceStats(t *testing.T, h *Host) AnnounceStats {
	t.Helper()
	s, err := h.AnnounceStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRootsGoBeforeChunksWhenTheFirstPeerComes(t *testing.T) {
	a, _ := start(t, Config{AnnounceRate: 200})
	chunks, roots := manyIDs(3000, 1), manyIDs(5, 2)
	if err := a.Announce(chunks...); err != nil {
		t.Fatal(err)
	}
	if err := a.AnnounceRoots(roots...); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "everything to be noted", func() bool { return announceStats(t, a).Keys == len(chunks) })

	b, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	waitFor(t, "the roots to be announced", func() bool {
		return !slices.ContainsFunc(roots, func(id chunk.ID) bool { return !told(t, b, id) })
	})
	if s := announceStats(t, a); s.Messages > uint64(len(chunks)) || !s.Oldest.IsZero() {
		t.Errorf("the roots came after the chunks: %+v", s)
	}
	waitFor(t, "the first batch of chunks", func() bool { return announceStats(t, a).Messages > uint64(len(roots)) })
	late := manyIDs(1, 3)
	if err := a.AnnounceRoots(late...); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a root that came later", func() bool { return told(t, b, late[0]) })
	if s := announceStats(t, a); s.Pending == 0 {
		t.Errorf("a root that came later waited for the chunks: %+v", s)
	}
}

func TestChunksAreNoLongerAnnouncedAndRootsStay(t *testing.T) {
	a, _ := start(t, Config{ReprovideInterval: 300 * time.Millisecond})
	b, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	root, dropped, again := manyIDs(1, 1)[0], manyIDs(1, 2)[0], manyIDs(1, 3)[0]
	if err := a.AnnounceRoots(root); err != nil {
		t.Fatal(err)
	}
	if err := a.Announce(dropped); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "both to be announced", func() bool { return told(t, b, root) && told(t, b, dropped) })
	a.StopAnnouncingChunks()
	waitFor(t, "the chunk to be dropped", func() bool { return announceStats(t, a).Keys == 0 })

	c, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	waitFor(t, "the root to be announced to C", func() bool { return told(t, c, root) })
	if told(t, c, dropped) {
		t.Error("a dropped chunk was announced again")
	}
	if err := a.Announce(again); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a chunk announced after that", func() bool { return told(t, c, again) })
	if err := a.StopAnnouncing(root); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the root to be dropped", func() bool { return announceStats(t, a).Roots == 0 })
}

func TestAHolderAnswersForWhatItDidNotAnnounce(t *testing.T) {
	var mu sync.Mutex
	held := map[chunk.ID]bool{}
	id := manyIDs(1, 1)[0]
	a, _ := start(t, Config{Holds: func(_ context.Context, id chunk.ID) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return held[id], nil
	}})
	b, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	c, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(b)}})
	waitFor(t, "all to meet", func() bool { return connected(a, b) && connected(b, c) })
	if finds(t, c, a.ID(), id) {
		t.Fatal("found what nobody has")
	}
	// B announces the same chunk, so A is told of it and knows a record.
	if err := b.Announce(id); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "C to find it at B", func() bool { return finds(t, c, b.ID(), id) })
	mu.Lock()
	held[id] = true
	mu.Unlock()
	waitFor(t, "C to find it at A too", func() bool { return finds(t, c, a.ID(), id) })
	if s := announceStats(t, a); s.Messages != 0 {
		t.Errorf("A announced something: %+v", s)
	}
}

// byPart is one key for each part of the key space.
type byPart map[bitstr.Key][]mh.Multihash

func (b byPart) Get(_ context.Context, prefix bitstr.Key) ([]mh.Multihash, error) {
	return b[prefix], nil
}

func TestASweepTakesEachPartOnceAnInterval(t *testing.T) {
	keys := byPart{
		"000000000": make([]mh.Multihash, sweepBatch-1), "000000001": make([]mh.Multihash, 10),
		"011111111": make([]mh.Multihash, 7), "111111111": make([]mh.Multihash, 3),
	}
	var s sweep
	began := time.Now()
	drain := func(now time.Time) (batches []int) {
		for {
			due, err := s.next(t.Context(), keys, time.Hour, now)
			if err != nil {
				t.Fatal(err)
			}
			if len(due) == 0 {
				return batches
			}
			batches = append(batches, len(due))
		}
	}
	if !s.oldest().IsZero() {
		t.Error("something was announced before the first batch")
	}
	want := []int{sweepBatch + 9, 10}
	if got := drain(began); !slices.Equal(got, want) {
		t.Errorf("batches of %v keys, want %v", got, want)
	}
	if !s.oldest().Equal(began) {
		t.Errorf("oldest is %s, want %s", s.oldest(), began)
	}
	if got := drain(began.Add(59 * time.Minute)); len(got) != 0 {
		t.Errorf("announced again too early: %v", got)
	}
	later := began.Add(time.Hour)
	if got := drain(later); !slices.Equal(got, want) || !s.oldest().Equal(later) {
		t.Errorf("batches of %v keys after an hour, want %v", got, want)
	}
	s.reset()
	if got := drain(later); !slices.Equal(got, want) {
		t.Errorf("batches of %v keys after a reset, want %v", got, want)
	}
}

func TestASweepThatTakesLongerThanTheIntervalGoesRound(t *testing.T) {
	const perPart = sweepBatch / 4 // so four parts fill a batch
	keys := byPart{}
	for i := range sweepParts {
		keys[bitstr.Key(fmt.Sprintf("%0*b", sweepBits, i))] = slices.Repeat([]mh.Multihash{{byte(i >> 8), byte(i)}}, perPart)
	}
	var s sweep
	now := time.Now()
	for round := range 3 {
		announced := map[string]int{}
		for range sweepParts / 4 {
			due, err := s.next(t.Context(), keys, time.Hour, now)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range due {
				announced[string(k)]++
			}
			now = now.Add(time.Hour)
		}
		for k, n := range announced {
			if n != perPart {
				t.Errorf("round %d: part %x announced %d times", round, k, n/perPart)
			}
		}
		if len(announced) != sweepParts {
			t.Errorf("round %d: %d of %d parts announced", round, len(announced), sweepParts)
		}
	}
}

// countingSender sends nothing.
type countingSender struct{ pb.MessageSender }

func (countingSender) SendMessage(context.Context, peer.ID, *pb.Message) error { return nil }

func TestRecordsOfChunksArePacedAndThoseOfRootsAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPacedSender(countingSender{}, 1000)
		send := func(n int, to pb.MessageSender) time.Duration {
			began := time.Now()
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range n / 8 {
						if err := to.SendMessage(t.Context(), "", &pb.Message{Key: []byte("key")}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			return time.Since(began)
		}
		if took := send(8000, s.counted); took != 0 {
			t.Errorf("8000 records of roots took %s", took)
		}
		if took := send(8000, s); took < 7500*time.Millisecond || took > 8*time.Second {
			t.Errorf("8000 records of chunks at 1000 a second took %s", took)
		}
		if got := s.counted.messages.Load(); got != 16000 {
			t.Errorf("%d messages counted", got)
		}
	})
}

func TestKeysThatNobodyTakesAreWaitedForAMinute(t *testing.T) {
	p, now := &providers{}, time.Now()
	for _, step := range []struct {
		at    progress
		after time.Duration
		stuck bool
	}{
		{progress{10, 0}, 0, false}, {progress{10, 0}, 59 * time.Second, false}, {progress{10, 1}, time.Second, false},
		{progress{10, 1}, 59 * time.Second, false}, {progress{10, 1}, time.Second, true}, {progress{20, 1}, time.Second, false},
	} {
		now = now.Add(step.after)
		if got := p.stuck(step.at, now); got != step.stuck {
			t.Errorf("%+v after another %s: stuck %t", step.at, step.after, got)
		}
	}
}
