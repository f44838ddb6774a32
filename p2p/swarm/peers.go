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

	// assumedTime is what a peer is taken to need before it is measured. It is
	// short, so that new peers are tried.
	assumedTime = 10 * time.Millisecond
	// forgetAfter is how long a measurement is trusted in full. Later a peer
	// counts as faster than it was, so that it is tried again.
	forgetAfter = 10 * time.Second
)

// Urgent and bulk requests go over streams of their own and are measured
// apart.
const (
	urgent = iota
	bulk
	numLanes
)

func laneOf(c Class) int {
	if c <= Readahead {
		return urgent
	}
	return bulk
}

// peerBook holds what was measured of each peer.
type peerBook struct {
	mu      sync.Mutex
	peers   map[peer.ID]*peerRecord
	missing map[missingKey]time.Time // until when "don't have" is believed
	total   Totals

	// arrived returns when the last byte of an answer came; may be nil.
	arrived func(p peer.ID, class Class) time.Time
}

type missingKey struct {
	peer  peer.ID
	chunk chunk.ID
}

// peerRecord is what was measured of one peer.
type peerRecord struct {
	inflight    [numLanes]int
	took        [numLanes]time.Duration // smoothed time to an answer, at the load there was
	load        [numLanes]float64       // smoothed requests in flight, the new one included
	sign        [numLanes]time.Time     // any answer
	waits       [numLanes]time.Time     // since when an answer has been due all the time
	gap         [numLanes]time.Duration // the longest it lately let us wait for the next answer
	rtt         time.Duration           // smoothed time to an answer of an idle peer
	throughput  float64                 // smoothed bytes per second while busy
	windowStart time.Time               // of the measurement under way
	windowBytes int
	failRate    float64 // smoothed, 0 to 1
	missRate    float64 // smoothed, 0 to 1
	lastOK      time.Time
	measured    time.Time // when took was last learned
	until       time.Time // of the quarantine
	reason      string
	strikes     int // failures in a row
	lies        int // times it sent wrong bytes
	trust       trust

	bytes, chunks, failures, misses uint64
}

func newPeerBook(arrived func(peer.ID, Class) time.Time) *peerBook {
	return &peerBook{
		arrived: arrived,
		peers:   map[peer.ID]*peerRecord{}, missing: map[missingKey]time.Time{},
	}
}

// record returns the record of p. When there are too many, one of a peer that
// is not asked for anything now goes: of a few, if possible one that may be
// asked. b.mu is held.
func (b *peerBook) record(p peer.ID) *peerRecord {
	r := b.peers[p]
	if r != nil {
		return r
	}
	if len(b.peers) >= maxPeers {
		var gone peer.ID
		now, looked := time.Now(), 0
		for q, old := range b.peers {
			if old.requests() > 0 {
				continue
			}
			gone = q
			if looked++; looked == 32 || now.After(old.until) {
				break
			}
		}
		delete(b.peers, gone)
	}
	r = &peerRecord{}
	b.peers[p] = r
	return r
}

// requests is how many are in flight to the peer.
func (r *peerRecord) requests() int { return r.inflight[urgent] + r.inflight[bulk] }

// expected is how long one more request will probably take: the time that was
// measured, longer if more is in flight now than then.
func (r *peerRecord) expected(lane int, now time.Time) time.Duration {
	if r == nil || r.took[lane] == 0 {
		return assumedTime
	}
	took := float64(r.took[lane])
	return time.Duration(took * r.forgotten(now) * max(1, float64(r.inflight[lane]+1)/r.load[lane]))
}

// forgotten is the part of what was measured that still counts.
func (r *peerRecord) forgotten(now time.Time) float64 {
	if idle := now.Sub(r.measured); idle > forgetAfter && r.requests() == 0 {
		return float64(forgetAfter) / float64(idle)
	}
	return 1
}

// cost ranks peers for one more request: the measured time, times the requests
// that share it. Among peers whose links are full this leaves each as much as
// it can carry; among others it keeps the numbers in flight in proportion to
// their speed. (The rule is "peak EWMA" of Finagle's load balancer.) A peer that
// lets us wait now is at least as slow as that, and one not measured in this
// lane as it was in the other.
func (r *peerRecord) cost(lane int, now time.Time) float64 {
	if r == nil {
		return float64(assumedTime)
	}
	took := assumedTime
	if r.took[lane] > 0 {
		took = r.took[lane]
	} else if other := r.took[numLanes-1-lane]; other > 0 {
		took = other
	}
	took = max(took, r.silence(lane, now))
	if other := numLanes - 1 - lane; r.silence(other, now) > r.patience(other, firstPatience) {
		took = max(took, r.silence(other, now))
	}
	return float64(took) * r.forgotten(now) * float64(r.inflight[lane]+1) * (1 + 4*r.failRate + 4*r.missRate)
}

// choice is how good it is to ask a peer now.
type choice struct {
	usable bool
	until  time.Time // when not usable: when it may be
	cost   float64   // the lower the better
}

// consider says whether p may be asked for id now, and at what cost.
func (b *peerBook) consider(p peer.ID, id chunk.ID, class Class, now time.Time) choice {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until, ok := b.missing[missingKey{p, id}]; ok && now.Before(until) {
		return choice{until: until}
	}
	r := b.peers[p]
	if r != nil && now.Before(r.until) {
		return choice{until: r.until}
	}
	cost := r.cost(laneOf(class), now)
	if r != nil && now.Before(r.trust.until) {
		cost *= doubtCost
	}
	return choice{usable: true, cost: cost}
}

// begin notes that p is asked for a chunk and says how long that should take.
func (b *peerBook) begin(p peer.ID, class Class, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, lane := b.record(p), laneOf(class)
	expected := r.expected(lane, now)
	if r.requests() == 0 {
		r.windowStart, r.windowBytes = now, 0
	}
	if r.inflight[lane] == 0 {
		r.waits[lane] = now
	}
	r.inflight[lane]++
	if r.load[lane] == 0 {
		r.load[lane] = 1
	}
	smooth(&r.load[lane], float64(r.inflight[lane]))
	return expected
}

// delivered notes a verified chunk of n packed bytes, asked for took ago.
func (b *peerBook) delivered(p peer.ID, class Class, n int, took time.Duration, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, lane := b.record(p), laneOf(class)
	if r.requests() == 1 {
		smoothTime(&r.rtt, took)
	}
	smoothTime(&r.took[lane], took)
	r.answered(class, now)
	r.lastOK, r.strikes = now, 0
	r.trust.gave()
	r.bytes += uint64(n)
	r.chunks++
	b.total.BytesReceived += uint64(n)
	b.total.Chunks++
	smooth(&r.failRate, 0)
	smooth(&r.missRate, 0)
	r.windowBytes += n
	if elapsed := now.Sub(r.windowStart); elapsed >= measureAfter || r.requests() == 0 && elapsed > 0 {
		rate := float64(r.windowBytes) / elapsed.Seconds()
		if r.throughput == 0 {
			r.throughput = rate
		}
		smooth(&r.throughput, rate)
		r.windowStart, r.windowBytes = now, 0
	}
}

// missed notes that p does not have id.
func (b *peerBook) missed(p peer.ID, class Class, id chunk.ID, now, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	r.answered(class, now)
	r.misses++
	r.strikes = 0
	smooth(&r.missRate, 1)
	if len(b.missing) >= maxMissing {
		clear(b.missing) // they are short-lived anyway
	}
	b.missing[missingKey{p, id}] = until
}

// busy notes that p has too much to do.
func (b *peerBook) busy(p peer.ID, class Class, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.record(p).answered(class, now)
}

// gaveUp notes that an answer of p, asked for waited ago, is no longer waited
// for. So it would have taken longer than that. A late one would have come after
// somebody else's.
func (b *peerBook) gaveUp(p peer.ID, class Class, waited time.Duration, late bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, lane := b.record(p), laneOf(class)
	r.gap[lane] = max(r.gap[lane], min(r.silence(lane, now), maxGap))
	if waited > max(r.took[lane], assumedTime) {
		smoothTime(&r.took[lane], waited)
		r.measured = now
	}
	r.inflight[lane]--
	if late {
		smooth(&r.failRate, 1)
	}
}

// failed notes that p could not be reached, broke off or stalled, and leaves
// it alone for a while.
func (b *peerBook) failed(p peer.ID, class Class, reason string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	r.inflight[laneOf(class)]--
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
func (b *peerBook) lied(p peer.ID, class Class, reason string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	r.inflight[laneOf(class)]--
	r.failures++
	b.total.Corrupt++
	if r.lies > 0 && now.Before(r.until) {
		return
	}
	wait := min(lieFirst<<(2*min(r.lies, 10)), lieMax)
	r.lies++
	r.until, r.reason = now.Add(wait), reason
}

// answered is common to all answers.
func (r *peerRecord) answered(class Class, now time.Time) {
	lane := laneOf(class)
	gap := r.silence(lane, now)
	r.gap[lane] = max(gap, r.gap[lane]-(r.gap[lane]-gap)/gapMemory)
	r.inflight[lane]--
	r.sign[lane], r.measured = now, now
}

// expected returns how long a request to p takes by what is known now.
func (b *peerBook) expected(p peer.ID, class Class, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record(p).expected(laneOf(class), now)
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

func smoothTime(v *time.Duration, sample time.Duration) {
	if *v == 0 {
		*v = sample
	}
	*v += time.Duration(smoothing * float64(sample-*v))
}

// usable reports whether p may be asked now.
func (b *peerBook) usable(p peer.ID, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.peers[p]
	return r == nil || !now.Before(r.until)
}

// suspect leaves a peer alone for a while that told what is not so.
func (b *peerBook) suspect(p peer.ID, reason string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.record(p)
	r.failures++
	wait := min(lieFirst<<(2*min(r.lies, 10)), lieMax)
	r.lies++
	r.until, r.reason = now.Add(wait), reason
}
