package node

import (
	"sync/atomic"

	"github.com/flistnode/flistnode/node/api"
)

// origins counts where the chunks of a mount came from. Its methods do nothing
// on nil.
type origins struct {
	cache, store, peers, peerBytes atomic.Uint64
}

func (o *origins) cached() {
	if o != nil {
		o.cache.Add(1)
	}
}

func (o *origins) stored() {
	if o != nil {
		o.store.Add(1)
	}
}

// fetched counts a chunk of so many plain bytes that a peer sent.
func (o *origins) fetched(size int) {
	if o != nil {
		o.peers.Add(1)
		o.peerBytes.Add(uint64(size))
	}
}

func (o *origins) counts() api.ChunkOrigins {
	return api.ChunkOrigins{Cache: o.cache.Load(), Store: o.store.Load(), Peers: o.peers.Load(), PeerBytes: o.peerBytes.Load()}
}
