package swarm

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxPeers     = 4096
	maxMissing   = 65536 // answers "don't have" remembered
	maxRecent    = 8     // peers that delivered lately, asked without being named
	recentlyOK   = 5 * time.Minute
	failFirst    = time.Second // first quarantine after a failure; doubles
	failMax      = time.Minute
	lieFirst     = time.Minute // first quarantine after wrong bytes; grows fourfold
	lieMax       = time.Hour
	smoothing    = 0.25 // weight of a new measurement
	measureAfter = 50 * time.Millisecond

	// What is assumed of a peer before it is measured, and of a chunk.
	assumedRTT        = 10 * time.Millisecond
	assumedThroughput = 32 << 20 // bytes per second
	assumedChunk      = 128 << 10
)

// peerBook holds what was measured of each peer.
type peerBook struct {
	mu      sync.Mutex
	peers   map[peer.ID]*peerRecord
	missing map[missingKey]time.Time // until when "don't have" is believed
	chunk   float64                  // smoothed bytes of a packed chunk
	total   Totals
}

type missingKey struct {
	peer  peer.ID
	chunk chunk.ID
}

// peerRecord is what was measured of one peer.
type peerRecord struct {
	inflight    int
	rtt         time.Duration // smoothed time to an answer of an idle peer
	throughput  float64       // smoothed bytes per second while busy
	windowStart time.Time     // of the measurement under way
	windowBytes int
	failRate    float64 // smoothed, 0 to 1
	missRate    float64 // smoothed, 0 to 1
	lastOK      time.Time
	lastSign    time.Time // any answer
	until       time.Time // of the quarantine
	reason      string
	strikes     int // failures in a row
	lies        int // times it sent wrong bytes

	bytes, chunks, failures, misses uint64
}

func newPeerBook() *peerBook {
	return &peerBook{
		peers: map[peer.ID]*peerRecord{}, missing: map[missingKey]time.Time{}, chunk: assumedChunk,
	}
}

// record returns the record of p. When there are too many, one of a peer that
// is not asked for anything now goes. b.mu is held.
func (b *peerBook) record(p peer.ID) *peerRecord {
	r := b.peers[p]
	if r != nil {
		return r
	}
	if len(b.peers) >= maxPeers {
		now := time.Now()
		for q, old := range b.peers {
			if old.inflight == 0 && now.After(old.until) {
				delete(b.peers, q)
				break
			}
		}
	}
	r = &peerRecord{}
	b.peers[p] = r
	return r
}

// expected is how long a chunk asked of r now will probably take.
func (b *peerBook) expected(r *peerRecord) time.Duration {
	rtt, throughput := assumedRTT, float64(assumedThroughput)
	if r != nil && r.rtt > 0 {
		rtt = r.rtt
	}
	queued := 1
	if r != nil {
		queued += r.inflight
		if r.throughput > 0 {
			throughput = r.throughput
		}
	}
	return rtt + time.Duration(float64(queued)*b.chunk/throughput*float64(time.Second))
}

// choice is how good it is to ask a peer now.
type choice struct {
	usable bool
	until  time.Time     // when not usable: when it may be
	cost   time.Duration // what it will take, made worse by failures and misses
}

// consider says whether p may be asked for id now, and at what cost.
func (b *peerBook) consider(p peer.ID, id chunk.ID, now time.Time) choice {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until, ok := b.missing[missingKey{p, id}]; ok && now.Before(until) {
		return choice{until: until}
	}
	r := b.peers[p]
	if r == nil {
		return choice{usable: true, cost: b.expected(nil)}
	}
	if now.Before(r.until) {
		return choice{until: r.until}
	}
	worse := 1 + 4*r.failRate + 4*r.missRate
	return choice{usable: true, cost: time.Duration(float64(b.expected(r)) * worse)}
}

// begin notes that p is asked for a chunk and says how long that should take.
func (b *peerBook) begin(p peer.ID, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	expected := b.expected(r)
	if r.inflight == 0 {
		r.windowStart, r.windowBytes = now, 0
	}
	r.inflight++
	return expected
}

// delivered notes a verified chunk of n packed bytes, asked for took ago.
func (b *peerBook) delivered(p peer.ID, n int, took time.Duration, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	alone := r.inflight == 1
	b.answered(r, now)
	r.lastOK, r.strikes = now, 0
	r.bytes += uint64(n)
	r.chunks++
	b.total.BytesReceived += uint64(n)
	b.total.Chunks++
	b.chunk += smoothing / 4 * (float64(n) - b.chunk)
	b.chunk = max(b.chunk, 1024)
	smooth(&r.failRate, 0)
	smooth(&r.missRate, 0)
	if alone {
		r.noteRTT(took)
	}
	r.windowBytes += n
	if elapsed := now.Sub(r.windowStart); elapsed >= measureAfter || r.inflight == 0 && elapsed > 0 {
		rate := float64(r.windowBytes) / elapsed.Seconds()
		if r.throughput == 0 {
			r.throughput = rate
		}
		smooth(&r.throughput, rate)
		r.windowStart, r.windowBytes = now, 0
	}
}

func (r *peerRecord) noteRTT(took time.Duration) {
	if r.rtt == 0 {
		r.rtt = took
	}
	r.rtt += time.Duration(smoothing * float64(took-r.rtt))
}

// missed notes that p does not have id.
func (b *peerBook) missed(p peer.ID, id chunk.ID, now, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	b.answered(r, now)
	r.misses++
	r.strikes = 0
	smooth(&r.missRate, 1)
	if len(b.missing) >= maxMissing {
		clear(b.missing) // they are short-lived anyway
	}
	b.missing[missingKey{p, id}] = until
}

// busy notes that p has too much to do.
func (b *peerBook) busy(p peer.ID, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered(b.record(p), now)
}

// gaveUp notes that an answer of p is no longer waited for. A late one would
// have come after somebody else's.
func (b *peerBook) gaveUp(p peer.ID, late bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	r.inflight--
	if late {
		smooth(&r.failRate, 1)
		r.throughput *= 0.75
	}
}

// failed notes that p could not be reached, broke off or stalled, and leaves
// it alone for a while.
func (b *peerBook) failed(p peer.ID, reason string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	r.inflight--
	r.failures++
	smooth(&r.failRate, 1)
	if now.Before(r.until) {
		return // requests in flight together fail together
	}
	wait := min(failFirst<<min(r.strikes, 10), failMax)
	r.strikes++
	r.until, r.reason = now.Add(wait), reason
}

// lied notes that p sent wrong bytes or broke the protocol.
func (b *peerBook) lied(p peer.ID, reason string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	r.inflight--
	r.failures++
	b.total.Corrupt++
	if r.lies > 0 && now.Before(r.until) {
		return
	}
	wait := min(lieFirst<<(2*min(r.lies, 10)), lieMax)
	r.lies++
	r.until, r.reason = now.Add(wait), reason
}

// answered is common to all answers. b.mu is held.
func (b *peerBook) answered(r *peerRecord, now time.Time) {
	r.inflight--
	r.lastSign = now
}

// sign returns when p last answered anything.
func (b *peerBook) sign(p peer.ID) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record(p).lastSign
}

// recent returns some peers that delivered lately, the last one first.
func (b *peerBook) recent(now time.Time) []peer.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []peer.ID
	for p, r := range b.peers {
		if now.Sub(r.lastOK) < recentlyOK {
			ids = append(ids, p)
		}
	}
	slices.SortFunc(ids, func(x, y peer.ID) int {
		return cmp.Or(b.peers[y].lastOK.Compare(b.peers[x].lastOK), cmp.Compare(x, y))
	})
	return ids[:min(len(ids), maxRecent)]
}

func smooth(v *float64, sample float64) { *v += smoothing * (sample - *v) }
