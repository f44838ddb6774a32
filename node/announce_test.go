package node

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/flistnode/flistnode/flist/chunk"
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
