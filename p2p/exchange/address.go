package exchange

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	manet "github.com/multiformats/go-multiaddr/net"
)

// A peer ID costs nothing, so what many of them at one address have together
// is bounded too. A site may stand behind one address: some hundred peers there
// must not come near these bounds.
const (
	// addressShare is how many peers' worth of turns, and of what may be told and
	// asked in vain, the peers at one address have together.
	addressShare = 16
	// addressRoom: while all bytes are free the peers at one address may hold one
	// of so many, and less with the square of what is free. Who holds nothing
	// may still, as long as more is free than they hold.
	addressRoom = 2
	// freeQueue is how many requests of a peer are queued also when those of all
	// at its address, or of all peers, are too many.
	freeQueue = 64
	// networkBits6 is how much of an IPv6 address counts: what one customer has.
	networkBits6 = 56
)

// address is what the peers at one IP address have together.
type address struct {
	key     netip.Prefix
	streams int          // Server.mu guards it
	queued  atomic.Int64 // requests that wait
	reads   group        // in Server.reads
	sends   [numLanes]group
	told    pace // bytes, about
	empty   pace // requests
}

// group is what the accounts of one address got in turns. turns.mu guards it.
type group struct {
	spent   int64 // on the clock of turns
	clock   int64 // account.spent of which of them was served last, when that began
	held    int64 // bytes
	waiting int   // accounts
}

// addressKey returns what peers of one address have in common; the zero Prefix
// for those without an IP address.
func addressKey(c network.Conn) netip.Prefix {
	ip, err := manet.ToIP(c.RemoteMultiaddr())
	if err != nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(ip)
	bits := 32
	if addr = addr.Unmap(); addr.Is6() {
		bits = networkBits6
	}
	p, _ := addr.Prefix(bits) // fails for the zero Addr alone, and is zero then
	return p
}

// address returns the address with that key. With too many, one without a
// stream is forgotten. s.mu is held.
func (s *Server) address(key netip.Prefix) *address {
	at := s.addresses[key]
	if at != nil {
		return at
	}
	if len(s.addresses) >= maxGuests {
		for old, a := range s.addresses {
			if a.streams == 0 {
				delete(s.addresses, old)
				break
			}
		}
	}
	now := time.Now()
	at = &address{
		key:   key,
		told:  pace{burst: addressShare * talkBurst, rate: addressShare * talkRate, last: now},
		empty: pace{burst: addressShare * emptyBurst, rate: addressShare * emptyRate, last: now},
	}
	s.addresses[key] = at
	return at
}

// settle notes that g is at the address with that key, unless it is still
// served at another. s.mu is held.
func (s *Server) settle(g *guest, key netip.Prefix) {
	at := s.address(key)
	if g.at == at || g.at != nil && g.streams > 0 {
		return
	}
	moved := s.reads.move(&g.reads, &at.reads)
	for lane, turns := range s.sends {
		moved = turns.move(&g.sends[lane], &at.sends[lane]) && moved
	}
	if moved || g.at == nil {
		g.at = at
	}
}

// move makes a one of the accounts of g. It reports whether it did: not while
// something is held for a, or it waits.
func (t *turns) move(a *account, g *group) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.n > 0 || a.held > 0 {
		return false
	}
	a.of = g
	return true
}

// group returns the group of a, of which it may be the only one.
func (a *account) group() *group {
	if a.of == nil {
		return &a.alone
	}
	return a.of
}

// share is of how many peers the group of a now has the turns.
func (a *account) share() int64 {
	n := a.group().waiting
	if a.n == 0 {
		n++ // a itself
	}
	return int64(min(n, addressShare))
}
