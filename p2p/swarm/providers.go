package swarm

import (
	"context"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxProviders  = 20 // kept of one lookup
	maxLookups    = 32 // that run at a time
	maxCached     = 8192
	lookupTimeout = 15 * time.Second
	// emptyTTL is how long it is believed that nobody announced a chunk.
	emptyTTL = time.Second
)

// providerCache remembers for a short time who announced what. One lookup of a
// chunk runs at a time, whoever wants it.
type providerCache struct {
	finder Finder
	ttl    time.Duration
	self   peer.ID
	spawn  func(func(context.Context)) bool
	slots  chan struct{}

	mu      sync.Mutex
	lookups map[chunk.ID]*lookup
}

// lookup is what is known about the providers of one chunk.
type lookup struct {
	peers   []peer.ID // only appended to, or replaced
	running bool
	found   int       // in the lookup that runs
	at      time.Time // of the last whole answer
	ttl     time.Duration
	watch   map[chan struct{}]struct{}
}

func newProviderCache(f Finder, ttl time.Duration, self peer.ID, spawn func(func(context.Context)) bool) *providerCache {
	return &providerCache{
		finder: f, ttl: ttl, self: self, spawn: spawn,
		slots: make(chan struct{}, maxLookups), lookups: map[chunk.ID]*lookup{},
	}
}

// find returns the providers of id known now, and whether a lookup is still
// under way. It starts one if what is known is old, or older than maxAge; news
// is poked when something is found and at the end.
func (c *providerCache) find(id chunk.ID, maxAge time.Duration, news chan struct{}) (peers []peer.ID, running bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	l := c.lookups[id]
	if l == nil {
		c.makeRoom(now)
		l = &lookup{watch: map[chan struct{}]struct{}{}}
		c.lookups[id] = l
	}
	if !l.running && now.Sub(l.at) >= min(l.ttl, maxAge) {
		l.found = 0
		l.running = c.spawn(func(ctx context.Context) { c.search(ctx, id, l) })
	}
	if l.running {
		l.watch[news] = struct{}{}
	}
	return l.peers, l.running
}

// known returns what find would, without starting anything.
func (c *providerCache) known(id chunk.ID) []peer.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lookups[id]; l != nil {
		return l.peers
	}
	return nil
}

// unwatch makes sure that news is no longer poked for id.
func (c *providerCache) unwatch(id chunk.ID, news chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lookups[id]; l != nil {
		delete(l.watch, news)
	}
}

// makeRoom forgets answers that are old, and if need be any that are whole.
func (c *providerCache) makeRoom(now time.Time) {
	if len(c.lookups) < maxCached {
		return
	}
	for id, l := range c.lookups {
		if !l.running && now.Sub(l.at) >= l.ttl {
			delete(c.lookups, id)
		}
	}
	for id, l := range c.lookups {
		if len(c.lookups) < maxCached*3/4 {
			return
		}
		if !l.running {
			delete(c.lookups, id)
		}
	}
}

// search runs one lookup. The peers found before stay until the first new one
// is there, so that refreshing never leaves a hole.
func (c *providerCache) search(ctx context.Context, id chunk.ID, l *lookup) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	for p := range c.finder.FindProviders(ctx, id, maxProviders) {
		if p.ID != c.self {
			c.add(l, p.ID)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l.running = false
	l.at, l.ttl = time.Now(), c.ttl
	if l.found == 0 {
		l.peers = nil
		l.ttl = min(emptyTTL, c.ttl)
	}
	for news := range l.watch {
		poke(news)
	}
	clear(l.watch)
}

func (c *providerCache) add(l *lookup, p peer.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.found == 0 {
		l.peers = nil
	}
	for _, q := range l.peers {
		if q == p {
			return
		}
	}
	if l.found >= maxProviders {
		return
	}
	l.found++
	l.peers = append(l.peers, p)
	for news := range l.watch {
		poke(news)
	}
}
