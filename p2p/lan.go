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

// AddressOf returns the IP address p is connected from, or of IPv6 its /56
// network; "" if it is not connected.
func (h *Host) AddressOf(p peer.ID) string {
	for _, c := range h.host.Network().ConnsToPeer(p) {
		ip, ok := ipOf(c.RemoteMultiaddr())
		if !ok {
			continue
		}
		bits := 32
		if ip.Is6() {
			bits = networkBits6
		}
		if network, err := ip.Prefix(bits); err == nil {
			return network.String()
		}
	}
	return ""
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
