package node

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

// cache keeps the plain content of the chunks used last, up to a number of
// bytes. A chunk in it has been verified.
type cache struct {
	maxBytes int64

	mu    sync.Mutex
	lru   *simplelru.LRU[chunk.ID, []byte]
	stats api.CacheStatus
}

func newCache(maxBytes int64) (*cache, error) {
	c := &cache{maxBytes: maxBytes}
	lru, err := simplelru.NewLRU(int(maxBytes/entryBytes)+1, func(_ chunk.ID, data []byte) { c.stats.Bytes -= weight(data) })
	c.lru = lru
	return c, err
}

// entryBytes is about what an entry takes beside its data.
const entryBytes = 256

// weight is what data takes in memory: a chunk cut out of a larger buffer
// keeps all of that.
func weight(data []byte) int64 { return int64(cap(data)) + entryBytes }

func (c *cache) get(id chunk.ID) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, ok := c.lru.Get(id)
	if ok {
		c.stats.Hits++
	} else {
		c.stats.Misses++
	}
	return data, ok
}

// peek is get for who has asked before: it counts nothing.
func (c *cache) peek(id chunk.ID) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Get(id)
}

func (c *cache) add(id chunk.ID, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lru.Contains(id) {
		return
	}
	c.stats.Bytes += weight(data)
	c.lru.Add(id, data)
	for c.stats.Bytes > c.maxBytes {
		c.lru.RemoveOldest()
	}
}

func (c *cache) status() api.CacheStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Chunks, s.MaxBytes = c.lru.Len(), c.maxBytes
	return s
}
