package swarm

import (
	"fmt"
	"time"

	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Hear takes what a peer tells. It does not block.
func (s *Swarm) Hear(p peer.ID, msg exchange.Message) {
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	if msg.Kind == exchange.Hello {
		s.setSite(p, msg.Site)
		return
	}
	if msg.Kind == exchange.Keep {
		s.hearKeep(p, msg)
		return
	}
	sh := h.all[msg.Root]
	if sh == nil {
		switch msg.Kind {
		case exchange.Join:
			s.interest(p, msg)
		case exchange.Reading:
			if in := h.interests.of[msg.Root][p]; in != nil {
				in.reads = true
			}
		case exchange.Have:
			if in := h.interests.of[msg.Root][p]; in != nil {
				holdToo(in.join, msg.Index)
			}
		case exchange.Leave:
			h.interests.remove(p, msg.Root)
		}
		return
	}
	switch msg.Kind {
	case exchange.Join:
		s.joined(sh, p, msg)
	case exchange.Leave:
		sh.remove(p)
		delete(sh.told, p)
		sh.poke()
	case exchange.Reading:
		if m := sh.members[p]; m != nil {
			m.reads = true
			sh.poke()
		}
	case exchange.Members:
		for _, q := range msg.Peers {
			s.hearsay(sh, q)
		}
	case exchange.Have, exchange.Fetching:
		if m := sh.members[p]; m != nil {
			s.news(sh, p, m, msg)
			s.pokeFlights(sh, msg.Index)
			sh.poke()
		}
	}
}

// holdToo adds chunks to what a join said is held: it is kept until the flist
// is shared here, and is not told again then.
func holdToo(join exchange.Message, index []uint32) {
	for _, i := range index {
		if i < join.Chunks {
			join.Have[i/8] |= 1 << (i % 8)
		}
	}
}

// joined notes that p shares sh and holds what it says.
func (s *Swarm) joined(sh *share, p peer.ID, msg exchange.Message) {
	if int(msg.Chunks) != len(sh.table.IDs) {
		s.cfg.Offences.Note(p, offence.Forged, fmt.Sprintf("bitmap of %d chunks for flist %s of %d", msg.Chunks, sh.table.Root, len(sh.table.IDs)))
		s.peers.suspect(p, "wrong number of chunks of an flist", time.Now())
		return
	}
	old, at := sh.members[p], s.address(p)
	if old == nil && !s.admit(sh, at) {
		return
	}
	sh.remove(p)
	m := &member{at: at, have: newBitmap(len(sh.table.IDs)), news: time.Now(), near: s.near(p), doubted: s.peers.doubted(p)}
	m.have.fill(msg.Have)
	m.n = m.have.count()
	m.seed = m.n == len(sh.table.IDs) && (old == nil || old.seed)
	sh.members[p] = m
	for i := range m.have.each {
		sh.count(m, i, 1)
	}
	sh.used = time.Now()
	if !sh.told[p] {
		s.tell(sh, p)
		s.introduce(sh, p)
	}
	sh.poke()
}

// introduce tells p who else shares sh.
func (s *Swarm) introduce(sh *share, p peer.ID) {
	var others []peer.ID
	for q := range sh.members {
		if q != p && len(others) < exchange.MaxMembers {
			others = append(others, q)
		}
	}
	if len(others) > 0 {
		s.talkers.say(p, exchange.Message{Kind: exchange.Members, Root: sh.table.Root, Peers: others})
	}
}

// news takes what a member newly holds or fetches.
func (s *Swarm) news(sh *share, p peer.ID, m *member, msg exchange.Message) {
	m.told(time.Now())
	for _, i := range msg.Index {
		if int(i) >= len(sh.table.IDs) || m.have.has(i) {
			continue
		}
		if msg.Kind == exchange.Fetching {
			if m.near {
				sh.claims(p, i, m.news)
			}
			continue
		}
		m.have.set(i)
		m.n++
		sh.count(m, i, 1)
	}
}

// setSite notes where p says it is.
func (s *Swarm) setSite(p peer.ID, site string) {
	h := s.shares
	if h.sites[p] == site {
		return
	}
	if _, ok := h.sites[p]; !ok && len(h.sites) >= maxPeers {
		h.forgetSites()
	}
	h.sites[p] = site
	near := s.near(p)
	for _, sh := range h.all {
		if m := sh.members[p]; m != nil && m.near != near {
			msg := exchange.Message{Chunks: uint32(len(sh.table.IDs)), Have: m.have.bytes(len(sh.table.IDs))}
			s.joined(sh, p, msg)
			sh.members[p].reads = m.reads
		}
	}
}

// forgetSites forgets the sites of some peers that share nothing with this
// node. h.mu is held.
func (h *shares) forgetSites() {
	for p := range h.sites {
		if len(h.sites) <= maxPeers*7/8 {
			return
		}
		shares := false
		for _, sh := range h.all {
			shares = shares || sh.members[p] != nil
		}
		if !shares {
			delete(h.sites, p)
		}
	}
}

// near reports whether p is at this node's site: by the names of the sites
// where either has one, else by whether it is reached over the LAN. h.mu is
// held.
func (s *Swarm) near(p peer.ID) bool {
	site := s.shares.sites[p]
	if site != "" || s.cfg.Site != "" {
		return site == s.cfg.Site
	}
	return s.cfg.OnLAN == nil || s.cfg.OnLAN(p)
}
