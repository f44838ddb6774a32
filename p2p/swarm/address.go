package swarm

import (
	"github.com/libp2p/go-libp2p/core/peer"
)

// Peer IDs cost nothing, so where there is no room for another peer, one makes
// room whose address has most.

// memberBytes bounds the bitmaps of all members of all flists, about.
const memberBytes = 128 << 20

// address returns what p has in common with others that are reached at the
// same address; something of its own when that is not known.
func (s *Swarm) address(p peer.ID) string {
	if s.cfg.Address != nil {
		if at := s.cfg.Address(p); at != "" {
			return at
		}
	}
	return string(p)
}

// crowded returns the address that has most of what is counted, if that is
// more than at will have.
func crowded(counts map[string]int, at string, more int) (most string, ok bool) {
	for a, n := range counts {
		if n > counts[most] || n == counts[most] && a > most {
			most = a
		}
	}
	return most, most != at && counts[most] > counts[at]+more
}

// admit makes room in sh for a member at an address. It reports whether there
// is some. h.mu is held.
func (s *Swarm) admit(sh *share, at string) bool {
	if len(sh.members) >= maxMembers {
		counts := map[string]int{}
		for _, m := range sh.members {
			counts[m.at]++
		}
		most, ok := crowded(counts, at, 1)
		if !ok {
			return false
		}
		s.dismiss(sh, most)
	}
	size := 8 * len(newBitmap(len(sh.table.IDs)))
	for s.shares.bitmaps()+size > memberBytes {
		counts := map[string]int{}
		for _, other := range s.shares.all {
			for _, m := range other.members {
				counts[m.at] += 8 * len(m.have)
			}
		}
		most, ok := crowded(counts, at, size)
		if !ok {
			return false
		}
		for _, other := range s.shares.all {
			s.dismiss(other, most)
		}
	}
	return true
}

// bitmaps is how many bytes the bitmaps of all members have. h.mu is held.
func (h *shares) bitmaps() (n int) {
	for _, sh := range h.all {
		n += len(sh.members) * 8 * len(sh.have)
	}
	return n
}

// dismiss takes away the member of sh at an address that told nothing for
// longest. h.mu is held.
func (s *Swarm) dismiss(sh *share, at string) {
	var gone peer.ID
	for p, m := range sh.members {
		if m.at == at && (gone == "" || m.news.Before(sh.members[gone].news)) {
			gone = p
		}
	}
	if gone == "" {
		return
	}
	sh.remove(gone)
	if sh.told[gone] {
		delete(sh.told, gone)
		s.talkers.leave(gone, sh.table.Root)
	}
}

// tellFewer ends telling of sh somebody of the address to which most are told
// of it. It reports whether it did. h.mu is held.
func (s *Swarm) tellFewer(sh *share, at string) bool {
	counts := map[string]int{}
	for p := range sh.told {
		counts[s.address(p)]++
	}
	most, ok := crowded(counts, at, 1)
	if !ok {
		return false
	}
	for p := range sh.told {
		if s.address(p) == most {
			delete(sh.told, p)
			sh.remove(p)
			s.talkers.leave(p, sh.table.Root)
			return true
		}
	}
	return false
}

// makeRoom ends telling somebody of the address to which most are told things.
// It reports whether it did. h.mu and t.mu are held.
func (t *talkers) makeRoom(at string) bool {
	counts := map[string]int{}
	for _, k := range t.to {
		counts[k.at]++
	}
	most, ok := crowded(counts, at, 1)
	if !ok {
		return false
	}
	for p, k := range t.to {
		if k.at == most {
			k.stop()
			t.forget(p)
			return true
		}
	}
	return false
}
