package swarm

import (
	"time"

	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	probeFirst = 500 * time.Millisecond // until a late peer is asked again; doubles
	probeMax   = 15 * time.Second
)

// dropLate finds the peers that let us wait for too long and gives to others
// what is in flight there.
func (j *job) dropLate(now time.Time) {
	any, first := false, firstPatience
	if now.Sub(j.lastCame) < minPatience && j.lastCame.After(j.began) {
		first = minPatience // others answer
	}
	for p, jp := range j.peers {
		if jp.asks == 0 {
			continue
		}
		m, least := j.sh.members[p], time.Duration(0)
		if m != nil && !m.near {
			least = farPatience
		}
		if now.Before(j.s.peers.silentAt(p, j.class, first, least, now)) {
			any = any || jp.late
			continue
		}
		any = true
		if !jp.late || jp.probed {
			jp.tooLate(now)
			j.s.cfg.Log.Debug("peer is late, others are asked", "peer", p, "flist", j.sh.table.Root, "requests", jp.asks,
				"silent", j.s.peers.answerless(p, j.class, now))
		}
		if m != nil {
			j.sh.setAside(m, true)
		}
	}
	if any {
		j.giveOver(now)
	}
}

// tooLate notes that the peer has let us wait for too long. It is left alone
// for a while, and then asked for one chunk, until it answers.
func (jp *jobPeer) tooLate(now time.Time) {
	jp.blocked = now.Add(min(probeFirst<<min(jp.strikes, 10), probeMax))
	jp.strikes++
	jp.late, jp.probed = true, false
	jp.window = minWindow
}

// giveOver makes others be asked for what is in flight to late peers. What
// others hold is given up there, but for what was asked for first: that is how
// a peer that was only slow is heard again.
func (j *job) giveOver(now time.Time) {
	first := map[peer.ID]*jobAsk{}
	for _, asks := range j.inflight {
		for _, a := range asks {
			if f := first[a.peer]; j.peers[a.peer].late && (f == nil || a.began.Before(f.began)) {
				first[a.peer] = a
			}
		}
	}
	for i, asks := range j.inflight {
		late := 0
		for _, a := range append([]*jobAsk(nil), asks...) {
			if !j.peers[a.peer].late {
				continue
			}
			silent := j.s.peers.answerless(a.peer, j.class, now)
			switch {
			case min(silent, now.Sub(a.began)) >= j.s.cfg.StallTimeout:
				j.giveUp(i, a)
				j.s.peers.failed(a.peer, j.class, exchange.ErrStalled.Error(), now)
				j.s.asked.add(j.sh.table.IDs[i], a.peer, j.class, a.began, now, exchange.ErrStalled)
			case first[a.peer] != a && j.elsewhere(i, now):
				j.giveUp(i, a)
				j.s.peers.gaveUp(a.peer, j.class, now.Sub(a.began), true, now)
			default:
				late++
			}
		}
		if late == len(j.inflight[i]) && late <= maxActiveBulk && !j.pending.has(i) && !j.sh.have.has(i) {
			j.pending.set(i)
			j.waiting++
		}
	}
}

// elsewhere reports whether a member that is not late holds i and may be asked.
func (j *job) elsewhere(i uint32, now time.Time) bool {
	if j.sh.holders[i] == 0 {
		return false
	}
	for p, m := range j.sh.members {
		if m.have.has(i) && !m.aside && j.s.peers.usable(p, now) {
			return true
		}
	}
	return false
}

// setAside makes what a member holds not count, since it gives nothing, or
// count again.
func (sh *share) setAside(m *member, aside bool) {
	if m.aside == aside {
		return
	}
	m.aside = aside
	d := uint16(1)
	if aside {
		d = minus
		sh.asides++
	} else {
		sh.asides--
	}
	for i := range m.have.each {
		sh.tally(m, i, d)
	}
}

// heldAside reports whether a member that is set aside holds i.
func (sh *share) heldAside(i uint32) bool {
	if sh.asides == 0 {
		return false
	}
	for _, m := range sh.members {
		if m.aside && m.have.has(i) {
			return true
		}
	}
	return false
}

// believed reports whether the member still does what it said it does: it told
// something lately, by its own measure but at least, and is not silent when
// asked.
func (m *member) believed(least time.Duration, now time.Time) bool {
	patience := newsTime
	if m.gap > 0 {
		patience = min(max(patienceGaps*m.gap, least), newsTime)
	}
	return !m.aside && now.Sub(m.news) < patience
}

// told notes that the member told something.
func (m *member) told(now time.Time) {
	gap := now.Sub(m.news)
	m.gap = max(gap, m.gap-(m.gap-gap)/gapMemory)
	m.news = now
}

// claim is a chunk that a member of the site said it fetches.
type claim struct {
	by    peer.ID
	at    time.Time
	times int
}

// maxClaims is how many may say of a chunk, one after the other, that they
// fetch it.
const maxClaims = 3

// claims notes that p fetches i. Who said so once and did not bring it is not
// believed again.
func (sh *share) claims(p peer.ID, i uint32, now time.Time) {
	c := sh.begun[i]
	if c.by == p || c.times >= maxClaims {
		return
	}
	sh.begun[i] = claim{by: p, at: now, times: c.times + 1}
}
