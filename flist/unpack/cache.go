package unpack

import "sync"

// cachedPacks is how many chunks of the packed stream are kept: a pack that
// ends in another directory than it began in is wanted again a little later.
// With larger ones left out this is at most 32 MiB.
const (
	cachedPacks    = 256
	maxCachedBytes = 128 << 10
)

// packCache keeps the packs fetched last.
type packCache struct {
	mu    sync.Mutex
	data  map[uint32][]byte
	order [cachedPacks]uint32 // a ring; valid are the len(data) before next
	next  int
}

func newPackCache() *packCache { return &packCache{data: make(map[uint32][]byte, cachedPacks)} }

func (c *packCache) get(i uint32) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data[i]
}

func (c *packCache) add(i uint32, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.data[i]; ok {
		return
	}
	if len(c.data) == cachedPacks {
		delete(c.data, c.order[c.next])
	}
	c.data[i] = data
	c.order[c.next] = i
	c.next = (c.next + 1) % cachedPacks
}
