package node

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p"
)

// fakeHost takes up to room IDs and then says that it has too many.
type fakeHost struct {
	mu        sync.Mutex
	room      int
	announced []chunk.ID
	stopped   []chunk.ID
	roots     int // announced as such
	dropped   int // times all chunks were
	replicas  int
}

func (h *fakeHost) Announce(ids ...chunk.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.announced)+len(ids) > h.room {
		return p2p.ErrBacklog
	}
	h.announced = append(h.announced, ids...)
	return nil
}

func (h *fakeHost) StopAnnouncing(ids ...chunk.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = append(h.stopped, ids...)
	return nil
}

func (h *fakeHost) AnnounceRoots(ids ...chunk.ID) error {
	h.mu.Lock()
	h.roots += len(ids)
	h.mu.Unlock()
	return h.Announce(ids...)
}

func (h *fakeHost) StopAnnouncingChunks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropped++
}

func (h *fakeHost) Replicas() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.replicas
}

func (h *fakeHost) makeRoom(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.room, h.announced = n, nil
}

type fakeHeld []chunk.ID

func (f fakeHeld) Iterate(_ context.Context, fn func(chunk.ID, int) error) error {
	for _, id := range f {
		if err := fn(id, 1); err != nil {
			return err
		}
	}
	return nil
}

func TestEverythingHeldIsAnnouncedRootsFirstAndAgainWhenThereWasNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids fakeHeld
		for i := range announceBatch + 10 {
			ids = append(ids, chunk.Sum([]byte{byte(i), byte(i >> 8)}))
		}
		root := ids[len(ids)-1]
		host := &fakeHost{room: 1 << 20}
		a := newAnnouncer(host, AnnounceChunks, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.run(ctx, ids, func() ([]chunk.ID, error) { return []chunk.ID{root}, nil }) }()
		synctest.Wait()
		if len(host.announced) != 1+len(ids) || host.announced[0] != root {
			t.Errorf("%d announced, want the root and then %d", len(host.announced), len(ids))
		}

		host.makeRoom(0)
		lost := chunk.Sum([]byte("lost"))
		a.came(lost) // does not block
		ids[0] = lost
		host.makeRoom(1 << 20)
		wait(ctx, announceRetry+1) // virtual time
		synctest.Wait()
		if !slices.Contains(host.announced, lost) {
			t.Error("a chunk there was no room for was not announced later")
		}
		a.went(lost)
		if !slices.Contains(host.stopped, lost) {
			t.Error("a chunk that went is still announced")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestChunksThatComeWhileSomethingIsFetchedAreAnnouncedAfterwards(t *testing.T) {
	host := &fakeHost{room: 1 << 20}
	a := newAnnouncer(host, AnnounceChunks, slog.New(slog.DiscardHandler))
	first, second := a.holdBack(), a.holdBack()
	kept, gone := chunk.Sum([]byte("kept")), chunk.Sum([]byte("gone"))
	a.came(kept)
	a.came(gone)
	a.went(gone)
	first()
	if len(host.announced) != 0 {
		t.Errorf("%d chunks were announced while a fetch was under way", len(host.announced))
	}
	second()
	if !slices.Equal(host.announced, []chunk.ID{kept}) {
		t.Errorf("announced %v after the fetches, want only the chunk that is still held", host.announced)
	}
	later := chunk.Sum([]byte("later"))
	a.came(later)
	if !slices.Contains(host.announced, later) {
		t.Error("a chunk that came after the fetches was not announced at once")
	}
}

func TestAutoAnnouncesChunksAsLongAsThatIsCheap(t *testing.T) {
	const long = modeSettle + modeLook
	type look struct {
		held, replicas int
		after          time.Duration
		chunks         bool
	}
	tests := map[string]struct {
		setting string
		held    int
		begin   bool
		looks   []look
	}{
		"few chunks":         {AnnounceAuto, 10_000, true, []look{{10_000, 0, 0, true}, {10_000, 20, long, true}, {10_000, 20, long, true}}},
		"many, alone":        {AnnounceAuto, 900_000, false, []look{{900_000, 0, 0, false}, {900_000, 0, long, false}}},
		"many, one peer":     {AnnounceAuto, 900_000, false, []look{{900_000, 1, 0, false}, {900_000, 1, modeLook, false}, {900_000, 1, long, true}}},
		"many, many peers":   {AnnounceAuto, 900_000, false, []look{{900_000, 20, 0, false}, {900_000, 20, long, false}}},
		"a network joined":   {AnnounceAuto, 900_000, false, []look{{900_000, 1, 0, false}, {900_000, 12, modeLook, false}, {900_000, 1, modeLook, false}, {900_000, 1, modeLook, false}}},
		"growth":             {AnnounceAuto, 1000, true, []look{{200_000, 20, 0, true}, {200_000, 20, modeLook, true}, {200_000, 20, long, false}}},
		"between the bounds": {AnnounceAuto, 1000, true, []look{{90_000, 20, 0, true}, {90_000, 20, long, true}}},
		"between, from roots": {AnnounceAuto, 90_000, false, []look{{90_000, 20, 0, false}, {90_000, 20, long, false}, {74_000, 20, 0, false},
			{74_000, 20, long, true}}},
		"chunks": {AnnounceChunks, 5_000_000, true, []look{{5_000_000, 20, long, true}, {5_000_000, 20, long, true}}},
		"roots":  {AnnounceRoots, 10, false, []look{{10, 1, long, false}, {10, 1, long, false}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := announceMode{setting: tt.setting}
			if got := m.begin(tt.held); got != tt.begin {
				t.Errorf("with %d chunks it begins with chunks: %t", tt.held, got)
			}
			now := time.Now()
			for i, l := range tt.looks {
				now = now.Add(l.after)
				if got := m.look(l.held, l.replicas, now); got != l.chunks {
					t.Errorf("look %d, %d chunks to %d peers: chunks %t", i, l.held, l.replicas, got)
				}
			}
		})
	}
}

func TestANodeChangesWhatItAnnouncesWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ids := make(fakeHeld, fewRecords/mostReplicas)
		for i := range ids {
			ids[i] = chunk.Sum([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		}
		host := &fakeHost{room: 1 << 30}
		a := newAnnouncer(host, AnnounceAuto, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.run(ctx, ids, func() ([]chunk.ID, error) { return ids[:1], nil }) }()
		after := func(d time.Duration, replicas int) (announced int) {
			host.mu.Lock()
			host.replicas = replicas
			host.mu.Unlock()
			wait(ctx, d)
			synctest.Wait()
			host.mu.Lock()
			defer host.mu.Unlock()
			return len(host.announced)
		}
		if got := after(time.Hour, 20); got != 1 || a.inForce() != AnnounceRoots {
			t.Errorf("%d announced in a large network, want the root alone; mode %s", got, a.inForce())
		}
		if got := after(time.Minute, 3); got != 1+1+len(ids) || a.inForce() != AnnounceChunks {
			t.Errorf("%d announced in a small network, want all %d; mode %s", got, len(ids), a.inForce())
		}
		late := chunk.Sum([]byte("late"))
		a.held.Store(maxRecords)
		if after(time.Minute, 20); host.dropped != 1 || a.inForce() != AnnounceRoots {
			t.Errorf("chunks were dropped %d times when they were too many; mode %s", host.dropped, a.inForce())
		}
		a.came(late)
		a.rootCame(late)
		a.rootWent(late)
		if host.roots != 3 || slices.Contains(host.announced[:len(host.announced)-1], late) || !slices.Contains(host.stopped, late) {
			t.Errorf("%d roots announced; a root that came and went: %v, %v", host.roots, host.announced[len(host.announced)-1], host.stopped)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A chunk of an flist that is not announced comes from a node that only the
// DHT knows by the flist's root.
func TestFListWhoseChunksAreNotAnnouncedIsFetchedAndRead(t *testing.T) {
	onlyRoots := func(cfg *Config) { cfg.Announce = AnnounceRoots }
	dir, files := sample(t, 5)
	a := startNode(t, "a", onlyRoots)
	cid := packed(t, a, dir)
	b := startNode(t, "b", onlyRoots, a)
	c := startNode(t, "c", onlyRoots, b)
	waitFor(t, "the root to be announced", func() bool {
		s, err := a.Status(t.Context())
		must(t, err)
		return s.Announce.Roots == 1 && s.Announce.Pending == 0 && s.Announce.RecordsSent > 0
	})
	var out bytes.Buffer
	must(t, b.Cat(t.Context(), cid, "/usr/lib/large", &out))
	if !bytes.Equal(out.Bytes(), files["/usr/lib/large"]) {
		t.Errorf("read %d other bytes", out.Len())
	}
	if _, err := c.Fetch(t.Context(), api.FetchRequest{FList: cid}, nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Node{a, b, c} {
		s, err := n.Status(t.Context())
		must(t, err)
		if s.Announce.Chunks != 0 || s.Announce.Mode != AnnounceRoots || s.Announce.RecordsSent > 20 {
			t.Errorf("chunks were announced: %+v", s.Announce)
		}
	}
}
