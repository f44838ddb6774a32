package testnet_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
)

// TestKilledFetchGoesOnWithWhatIsMissing kills a node in the middle of a fetch
// and starts it again: the seed sends what was missing, and no more than was
// in flight twice.
func TestKilledFetchGoesOnWithWhatIsMissing(t *testing.T) {
	n := network(t, "--download-limit", "8MiB")
	seed := line(t, n, 1)[0]
	dir, _ := randomFiles(t, 4, 2<<20)
	packed, err := seed.Pack(t.Context(), api.PackRequest{Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	node, err := n.Start(t.Context(), "fetches", seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.WaitPeers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	had := killAtHalf(t, node, packed.CID)
	again, err := n.Start(t.Context(), node.Name, seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.WaitPeers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	res, err := again.Fetch(t.Context(), api.FetchRequest{FList: packed.CID}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.NewBytes > res.Bytes-had {
		t.Errorf("%d bytes of %d were here, and %d were fetched", had, res.Bytes, res.NewBytes)
	}
	st, err := seed.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// In flight are 300 ms at the limit, and what waits to be kept.
	if sent, most := st.Net.BytesSent, packed.StoredBytes+3<<20; sent > most {
		t.Errorf("the seed sent %d bytes of an image of %d", sent, packed.StoredBytes)
	}
}

// killAtHalf fetches and kills the node when it has half. It returns how many
// bytes the node had said it had.
func killAtHalf(t *testing.T, node *testnet.Node, cid string) (had uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var bytes atomic.Uint64
	_, err := node.Fetch(ctx, api.FetchRequest{FList: cid}, func(p api.FetchProgress) {
		bytes.Store(p.Bytes)
		if p.Bytes > p.TotalBytes/2 && p.Bytes < p.TotalBytes {
			node.Kill()
		}
	})
	if err == nil {
		t.Fatal("the fetch ended before the node was killed")
	}
	return bytes.Load()
}
