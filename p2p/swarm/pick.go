package swarm

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxLooked = 128 // chunks compared before one is picked
	// Ranks of a chunk at a peer, the lowest first; rarer ones go first within
	// a rank, rarityRanks at most.
	rarityRanks = 1 << 10
	rankTrade   = 0               // others who download hold it, or only I am to fetch it
	rankUplink  = 1 * rarityRanks // as the last, but over the uplink
	rankOthers  = 2 * rarityRanks // somebody else's to fetch, who has not begun
	rankSpare   = 3 * rarityRanks // from a seed, though others who download hold it, or said to fetch it
	rankNever   = 1 << 30
	// A peer with a window as large as fastWindow is asked again when this part
	// of it is free, so that one frame asks for several chunks. A slower one is
	// asked for each by itself, as late as can be: the rarest is then known best.
	askTogether = 8
	fastWindow  = 4 << 20
	// spareAfter is how long nothing must have come for a seed to be asked for
	// what others hold too.
	spareAfter = 500 * time.Millisecond
	// endgameAge is how long a chunk was asked for before it is asked for again
	// when nothing else is left.
	endgameAge = 500 * time.Millisecond
)

// lastAsked orders members: those at this site who download, its seeds, then
// all others, who are beyond the uplink, and last those who were often wrong.
func (m *member) lastAsked(now time.Time) int {
	switch {
	case now.Before(m.doubted):
		return 3
	case !m.near:
		return 2
	case m.seed:
		return 1
	}
	return 0
}

// fill asks peers for chunks as far as their windows allow.
func (j *job) fill(now time.Time) {
	if j.waiting == 0 && len(j.inflight) == 0 {
		return
	}
	peers := make([]peer.ID, 0, len(j.sh.members))
	for p := range j.sh.members {
		peers = append(peers, p)
	}
	rand.Shuffle(len(peers), func(a, b int) { peers[a], peers[b] = peers[b], peers[a] })
	slices.SortStableFunc(peers, func(a, b peer.ID) int { // seeds carry what is left
		return cmp.Compare(j.sh.members[a].lastAsked(now), j.sh.members[b].lastAsked(now))
	})
	group := j.group(now)
	for _, p := range peers {
		if j.waiting == 0 && now.Sub(j.lastCame) < endgameAge/4 {
			return
		}
		jp := j.peers[p]
		if jp == nil {
			jp = &jobPeer{window: firstWindow}
			if !j.sh.members[p].near {
				jp.window = minWindow
			}
			j.peers[p] = jp
		}
		if now.Before(jp.blocked) || jp.late && jp.asks > 0 || !j.s.peers.usable(p, now) {
			continue
		}
		if jp.window >= fastWindow && jp.window-jp.bytes < jp.window/askTogether {
			continue // soon, and several at once
		}
		for (jp.asks == 0 || !jp.late && jp.bytes+j.chunkSize <= jp.window) && j.bytes < maxInFlight &&
			j.s.cfg.Download.Room(now, j.bytes, false) {
			i, ok := j.pick(p, jp, group, now)
			if !ok {
				break
			}
			j.start(p, i, now)
		}
	}
}

// pick returns the chunk to ask p for next: the lowest rank of those looked
// at, from a random place on.
func (j *job) pick(p peer.ID, jp *jobPeer, group []peer.ID, now time.Time) (uint32, bool) {
	m := j.sh.members[p]
	if j.waiting == 0 {
		return j.again(p, jp, m, now)
	}
	best, rank, looked := uint32(0), rankNever, 0
	words := len(j.pending)
	first := rand.IntN(words)
	for k := range words {
		w := (first + k) % words
		for v := j.pending[w] & m.have[w]; v != 0; v &= v - 1 {
			i := uint32(w*64 + bits.TrailingZeros64(v))
			r := j.rank(m, i, group, now)
			if r < rank || r == rank && r < rankNever && rand.IntN(looked+1) == 0 {
				best, rank = i, r
			}
			looked++
		}
		if looked >= maxLooked && rank < rankOthers {
			break
		}
	}
	if rank == rankNever {
		return 0, false
	}
	if rank >= rankUplink || m.seed {
		j.announce(best)
	}
	return best, true
}

// rank says how good it is to ask m for chunk i now.
func (j *job) rank(m *member, i uint32, group []peer.ID, now time.Time) int {
	sh := j.sh
	rarity := min(int(sh.holders[i]), rarityRanks-1)
	if asks := j.inflight[i]; len(asks) > 0 { // late: not from the same peer again
		for _, a := range asks {
			if sh.members[a.peer] == m {
				return rankNever
			}
		}
		if !m.near && sh.site[i] > 0 {
			return rankNever
		}
		return rankOthers + rarity
	}
	if m.near && !m.seed {
		return rankTrade + rarity
	}
	if len(group) == 1 && (m.near || sh.site[i] == 0) {
		return rankTrade + rarity
	}
	quiet := now.Sub(j.lastCame) > spareAfter
	if !m.near {
		quiet = now.Sub(j.lastCame) > stuckAfter
	}
	if m.near && sh.grown[i] > 0 || !m.near && sh.site[i] > 0 {
		// Its only holder has all it can carry, or nothing comes at all.
		if quiet || m.near && sh.grown[i] <= 2 && now.Sub(j.began) > spareAfter {
			return rankSpare + rarity
		}
		return rankNever
	}
	switch claimed, believed := j.fetchedByOther(i, m.near, now); {
	case believed:
		return rankNever
	case claimed || sh.heldAside(i):
		return rankSpare + rarity
	}
	base := rankTrade
	if !m.near {
		base = rankUplink
	}
	if !j.mine(group, i) {
		if !m.near && j.ownLeft(group, now) {
			return rankNever
		}
		base = rankOthers
	}
	return base + rarity
}

// again returns a chunk in flight elsewhere for too long, when nothing else is
// left, within the bound of what may be fetched twice.
func (j *job) again(p peer.ID, jp *jobPeer, m *member, now time.Time) (uint32, bool) {
	if j.extra*50 > len(j.sh.table.IDs)+50 || jp.rate == 0 {
		return 0, false
	}
	for i, asks := range j.inflight {
		a := asks[0]
		if len(asks) > 1 || a.peer == p || !m.have.has(i) || now.Sub(a.began) < endgameAge {
			continue
		}
		mine := float64(jp.bytes+j.chunkSize) / jp.rate
		if other := j.peers[a.peer]; other.rate > 0 && !other.late && float64(other.bytes)/other.rate < 2*mine {
			continue // it will come as soon from there
		}
		if !m.near && j.sh.site[i] > 0 {
			continue
		}
		j.extra++
		j.s.peers.countHedge()
		return i, true
	}
	return 0, false
}

// fetchedByOther reports whether a member of the site said it fetches i, and
// whether it is believed: it still tells news, and has not taken much longer
// than this node does. One that is not may be slow, so what it fetches comes
// last. Over an uplink, where a copy is dear, more patience is had.
func (j *job) fetchedByOther(i uint32, near bool, now time.Time) (claimed, believed bool) {
	c, ok := j.sh.begun[i]
	if !ok || now.Sub(c.at) >= newsTime {
		return false, false
	}
	least := minPatience
	if !near {
		least = newsTime / 2
	}
	patience := newsTime
	if j.claimTime > 0 {
		patience = max(patienceGaps*j.claimTime, least)
	}
	m := j.sh.members[c.by]
	return true, m != nil && now.Sub(c.at) < patience && m.believed(least, now)
}

// mine reports whether this node is to fetch i for the group.
func (j *job) mine(group []peer.ID, i uint32) bool {
	if !slices.Equal(group, j.group0) || j.owners == nil {
		j.group0, j.owners = group, make([]uint8, len(j.sh.table.IDs))
	}
	if j.owners[i] == 0 {
		j.owners[i] = 1
		if owner(group, j.sh.table.IDs[i]) == j.s.cfg.Self {
			j.owners[i] = 2
		}
	}
	return j.owners[i] == 2
}

// ownLeft reports whether a chunk waits that this node is to fetch for the
// group. It looks through all at most once in a while.
func (j *job) ownLeft(group []peer.ID, now time.Time) bool {
	if now.Sub(j.ownAt) < jobTick/2 {
		return j.own
	}
	j.ownAt, j.own = now, false
	for i := range j.pending.each {
		if j.sh.site[i] == 0 && j.sh.holders[i] > 0 && j.mine(group, i) {
			j.own = true
			break
		}
	}
	return j.own
}

// announce tells the members of the site that this node fetches i.
func (j *job) announce(i uint32) {
	for p, m := range j.sh.members {
		if m.near && !m.seed {
			j.s.talkers.fetching(p, j.sh.table.Root, i)
		}
	}
}

// group returns the nodes of this site that download the flist now, this one
// included.
func (j *job) group(now time.Time) []peer.ID {
	group := []peer.ID{j.s.cfg.Self}
	for p, m := range j.sh.members {
		if m.near && !m.reads && m.n < len(j.sh.table.IDs) && !m.aside && now.Sub(m.news) < newsTime {
			group = append(group, p)
		}
	}
	slices.Sort(group)
	return group
}

// owner returns the member of group that is to fetch id for all of them, by
// rendezvous hashing (Thaler and Ravishankar, 1998): every node computes the
// same, and when one goes only its chunks change hands.
func owner(group []peer.ID, id chunk.ID) (best peer.ID) {
	var most uint64
	for _, p := range group {
		if h := rank(hashPeer(p), &id); best == "" || h > most || h == most && p > best {
			best, most = p, h
		}
	}
	return best
}

// rank ranks a peer, given its hash, for a chunk, alike on all nodes (Stafford's
// mix 13, the finalizer of splitmix64).
func rank(peer uint64, id *chunk.ID) uint64 {
	return scramble(peer ^ binary.LittleEndian.Uint64(id[:8]))
}

// hashPeer is FNV-1a of a peer's ID.
func hashPeer(p peer.ID) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(p) {
		h = (h ^ uint64(p[i])) * 1099511628211
	}
	return h
}

func scramble(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
