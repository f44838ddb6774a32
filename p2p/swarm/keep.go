package swarm

import (
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Keep is a wish that a number of copies of every chunk of an flist be kept at
// a site, and the part a node has in it.
type Keep struct {
	Root     chunk.ID
	Version  uint64 // the greatest is the newest
	Copies   int    // 0: the wish was taken back
	Takes    bool   // the node takes more chunks
	Metadata bool   // the node holds all metadata
	Loads    bool   // the node is loading the flist, and may take chunks then
}

const (
	keepAgain  = 10 * time.Second // a peer that keeps too is told again so often
	keepProbe  = time.Minute      // any other of the site
	forgetSeen = 10 * time.Minute // a peer not connected for so long is forgotten
)

// keeps is what is told and heard of wishes. shares.mu guards it.
type keeps struct {
	own   map[chunk.ID]Keep
	heard map[chunk.ID]map[peer.ID]Keep // from neighbours
	told  map[peer.ID]map[chunk.ID]toldKeep
	seen  map[peer.ID]sighting
}

type toldKeep struct {
	Keep
	at time.Time
}

// sighting is when a peer was last connected.
type sighting struct {
	at        time.Time
	neighbour bool
	now       bool // it is connected
}

func newKeeps() *keeps {
	return &keeps{
		own: map[chunk.ID]Keep{}, heard: map[chunk.ID]map[peer.ID]Keep{},
		told: map[peer.ID]map[chunk.ID]toldKeep{}, seen: map[peer.ID]sighting{},
	}
}

// Keep tells the neighbours which copies this node keeps and which it no
// longer does. It is to be called again every second, and at once when
// something changed: it also notes who is connected, and tells again those who
// were away. Each flist must be shared (Share) as long as it is kept.
func (s *Swarm) Keep(all []Keep) {
	var connected []peer.ID
	if s.cfg.Connected != nil {
		connected = s.cfg.Connected()
	}
	now := time.Now()
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	s.see(connected, now)
	clear(s.keeps.own)
	for _, k := range all {
		s.keeps.own[k.Root] = k
	}
	for root, sh := range h.all {
		kept := s.keeps.own[root].Copies > 0
		if kept && !sh.kept {
			s.rejoin(sh) // members that have all were not told what came
		}
		sh.kept = kept
	}
	for _, p := range connected {
		// Who has not told its site can judge for itself.
		if p != s.cfg.Self && (s.neighbour(p) || s.cfg.Site != "" && h.sites[p] == "" && s.trusted(p)) {
			s.tellKeeps(p, now)
		}
	}
}

// tellKeeps tells p what it was not told yet, or long ago.
func (s *Swarm) tellKeeps(p peer.ID, now time.Time) {
	told := s.keeps.told[p]
	if told == nil {
		told = map[chunk.ID]toldKeep{}
		s.keeps.told[p] = told
	}
	for root := range told {
		if _, ok := s.keeps.own[root]; !ok {
			delete(told, root)
		}
	}
	for root, k := range s.keeps.own {
		again := keepProbe
		if s.keeps.heard[root][p].Copies > 0 {
			again = keepAgain
		}
		if old := told[root]; old.Keep == k && now.Sub(old.at) < again {
			continue
		}
		msg := exchange.Message{Kind: exchange.Keep, Root: root, Version: k.Version, Copies: uint8(k.Copies)}
		if k.Takes {
			msg.State |= exchange.KeepTakes
		}
		if k.Metadata {
			msg.State |= exchange.KeepMetadata
		}
		if k.Loads {
			msg.State |= exchange.KeepLoads
		}
		if s.talkers.say(p, msg) {
			told[root] = toldKeep{k, now}
		}
	}
}

// see notes who is connected now.
func (s *Swarm) see(connected []peer.ID, now time.Time) {
	k := s.keeps
	before := map[peer.ID]bool{}
	for p, at := range k.seen {
		before[p] = at.now
		at.now = false
		k.seen[p] = at
	}
	for _, p := range connected {
		if k.seen[p] = (sighting{now, s.neighbour(p), true}); !before[p] {
			delete(k.told, p)
			s.talkers.retell(p)
		}
	}
	for p, at := range k.seen {
		if now.Sub(at.at) < forgetSeen {
			continue
		}
		delete(k.seen, p)
		delete(k.told, p)
		for _, in := range k.heard {
			delete(in, p)
		}
	}
}

// keepsUntold makes p, which could not be told something, be told all again.
func (s *Swarm) keepsUntold(p peer.ID) {
	s.shares.mu.Lock()
	defer s.shares.mu.Unlock()
	delete(s.keeps.told, p)
}

// hearKeep takes what p tells of a wish. Only neighbours are heard: who is
// none must not fill this node's disk, nor make it believe in copies.
func (s *Swarm) hearKeep(p peer.ID, msg exchange.Message) {
	if s.cfg.Wished == nil || !s.neighbour(p) {
		return
	}
	k := Keep{Root: msg.Root, Version: msg.Version, Copies: int(msg.Copies),
		Takes: msg.State&exchange.KeepTakes != 0, Metadata: msg.State&exchange.KeepMetadata != 0,
		Loads: msg.State&exchange.KeepLoads != 0}
	in := s.keeps.heard[k.Root]
	if in == nil {
		if len(s.keeps.heard) >= maxInterests {
			for root := range s.keeps.heard {
				if _, ok := s.keeps.own[root]; !ok {
					delete(s.keeps.heard, root)
					break
				}
			}
		}
		if len(s.keeps.heard) >= maxInterests {
			return
		}
		in = map[peer.ID]Keep{}
		s.keeps.heard[k.Root] = in
	}
	if _, ok := in[p]; ok || len(in) < maxMembers {
		in[p] = k
		s.cfg.Wished(p, k)
	}
}

// neighbour reports whether p is at this node's site and may have a say in
// what is kept there. h.mu is held.
func (s *Swarm) neighbour(p peer.ID) bool { return s.near(p) && s.trusted(p) }

// trusted reports whether the name of a site p tells is believed: within a
// private network, or from the LAN.
func (s *Swarm) trusted(p peer.ID) bool { return s.cfg.Private || s.cfg.OnLAN == nil || s.cfg.OnLAN(p) }
