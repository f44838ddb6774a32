package exchange

import (
	"context"
	"errors"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
)

// deafStore finishes what it was asked for, whoever has left meanwhile.
type deafStore struct {
	*mapStore
	asked, goOn chan struct{}
}

func (s deafStore) GetPacked(ctx context.Context, id chunk.ID) (chunk.Packed, error) {
	s.asked <- struct{}{}
	<-s.goOn
	return s.mapStore.GetPacked(context.WithoutCancel(ctx), id)
}

func TestAnswerThatCameTooLateIsCounted(t *testing.T) {
	store, ids := storeOf(2, 1000)
	deaf := deafStore{store, make(chan struct{}, 2), make(chan struct{})}
	cl, _, p := serve(t, deaf, ServerConfig{}, ClientConfig{})
	if got := cl.Arrived(p, Waiting); !got.IsZero() {
		t.Errorf("bytes came at %s, and nothing was asked for", got)
	}
	ctx, cancel := context.WithCancel(ctxOf(t))
	gone := make(chan error, 1)
	go func() {
		_, err := cl.Get(ctx, p, ids[0], Waiting)
		gone <- err
	}()
	<-deaf.asked
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled Get = %v", err)
	}
	close(deaf.goOn)
	first, second := store.m[ids[0]], store.m[ids[1]]
	if _, err := cl.Get(ctxOf(t), p, ids[1], Waiting); err != nil {
		t.Fatal(err)
	}
	if cl.Arrived(p, Waiting).IsZero() {
		t.Errorf("%d bytes came, and it is not known when", len(second.Bytes))
	}
	// The answering side may also have left out what was cancelled.
	if got := cl.Discarded(); got != 0 && got != uint64(len(first.Bytes)) {
		t.Errorf("%d bytes discarded, want none or %d", got, len(first.Bytes))
	}
	t.Logf("%d bytes discarded", cl.Discarded())
}
