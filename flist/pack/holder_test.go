package pack_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/pack"
	"github.com/flistnode/flistnode/testnet/sampletree"
)

// holding is a memory that tells what it has and counts what it is given.
type holding struct {
	*memory
	puts atomic.Int64
}

func (h *holding) PackedSize(_ context.Context, id chunk.ID) (int, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.chunks[id]
	return len(p.Bytes), ok, nil
}

func (h *holding) Put(ctx context.Context, p chunk.Packed) error {
	h.puts.Add(1)
	return h.memory.Put(ctx, p)
}

func TestWhatTheSinkHoldsIsNotPutAgain(t *testing.T) {
	dir := t.TempDir()
	if _, err := sampletree.Make(dir, sampletree.Options{}); err != nil {
		t.Fatal(err)
	}
	sink := &holding{memory: newMemory()}
	first, err := pack.Dir(t.Context(), dir, sink, pack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sink.puts.Store(0)
	again, err := pack.Dir(t.Context(), dir, sink, pack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if again.CID != first.CID || again.Chunks != first.Chunks || again.StoredBytes != first.StoredBytes {
		t.Errorf("packed again: %+v, at first: %+v", again, first)
	}
	metadata := int64(len(first.Root.MetadataChunks(true))) + 1 // the root block
	if puts := sink.puts.Load(); puts != metadata {
		t.Errorf("%d chunks were put again, want only the %d of the metadata", puts, metadata)
	}
}
