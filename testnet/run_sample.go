package testnet

import (
	"context"
	"maps"
	"time"
)

const (
	sampleEvery   = time.Second
	sampleTimeout = 2 * time.Second
)

// counts is what a node says about itself. A node that is killed takes its
// counters with it, so they are read again and again.
type counts struct {
	received uint64 // bytes of chunks, as they travel
	needless uint64 // bytes of chunks that came after the same chunk; not in received
	sent     uint64
	fetched  uint64 // chunks
	served   uint64 // chunks
	failures uint64
	stored   uint64            // bytes; the store outlives the node, so it is not summed
	from     map[string]uint64 // peer ID -> bytes
	cpu      time.Duration
}

// add adds the counters of another life.
func (c *counts) add(o counts) {
	c.received += o.received
	c.needless += o.needless
	c.sent += o.sent
	c.fetched += o.fetched
	c.served += o.served
	c.failures += o.failures
	c.cpu += o.cpu
	c.stored = max(c.stored, o.stored)
	for id, n := range o.from {
		if c.from == nil {
			c.from = map[string]uint64{}
		}
		c.from[id] += n
	}
}

// sampleUntil reads the counters of all members until ctx ends.
func (r *runner) sampleUntil(ctx context.Context) {
	for sleep(ctx, sampleEvery) == nil {
		for _, m := range r.order {
			r.sample(ctx, m)
		}
	}
}

// sample reads a member's counters. Those of a node that does not answer stay
// as they were.
func (r *runner) sample(ctx context.Context, m *member) {
	r.mu.Lock()
	node, skip := m.node, m.frozen || m.killed || m.liar != nil
	r.mu.Unlock()
	if skip || node == nil || node.Ended() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	// Before the sum, so that the parts are never more.
	peers, err := node.Peers(ctx)
	if err != nil {
		return
	}
	st, err := node.Status(ctx)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.node != node {
		return // it has begun another life
	}
	c := counts{received: st.Net.BytesReceived, needless: st.Net.BytesNeedless, sent: st.Net.BytesSent, fetched: st.Net.ChunksFetched,
		served: st.Net.ChunksServed, failures: st.Net.Failures, stored: st.Store.Bytes, cpu: node.CPU(), from: maps.Clone(m.now.from)}
	if c.from == nil {
		c.from = map[string]uint64{}
	}
	for _, p := range peers { // those that are gone stay as they were
		c.from[p.ID] = max(c.from[p.ID], p.BytesReceived)
	}
	m.now = c
}
