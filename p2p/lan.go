package p2p

import (
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// OnLAN reports whether p is connected over the LAN: from an address of a
// private network or of this machine, or of the same /24 (IPv6: /64) as ours.
func (h *Host) OnLAN(p peer.ID) bool {
	for _, c := range h.host.Network().ConnsToPeer(p) {
		if sameLAN(c.LocalMultiaddr(), c.RemoteMultiaddr()) {
			return true
		}
	}
	return false
}

func sameLAN(local, remote ma.Multiaddr) bool {
	r, ok := ipOf(remote)
	if !ok {
		return false
	}
	if r.IsPrivate() || r.IsLoopback() || r.IsLinkLocalUnicast() {
		return true
	}
	bits := 24
	if r.Is6() {
		bits = 64
	}
	l, ok := ipOf(local)
	if !ok {
		return false
	}
	prefix, err := l.Prefix(bits)
	return err == nil && prefix.Contains(r)
}

func ipOf(a ma.Multiaddr) (netip.Addr, bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}
