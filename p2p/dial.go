package p2p

import (
	"net"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// nearHead is how long before all others the addresses on a link of this machine
// are dialled by TCP. That is enough for a handshake there.
const nearHead = 100 * time.Millisecond

// rankDials says in which order the addresses of a peer are dialled. libp2p
// prefers QUIC; but without a router between TCP carries two to three times as
// much for the same CPU, and it is there that most bytes are moved. Farther away
// QUIC is better: it does not forget how fast it may send while nobody reads.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	networks, err := net.InterfaceAddrs()
	if err != nil {
		networks = nil // no order is wrong
	}
	return rankFrom(networks, addrs)
}

// rankFrom is rankDials for a machine on these networks.
func rankFrom(networks []net.Addr, addrs []ma.Multiaddr) []network.AddrDelay {
	var near, others []ma.Multiaddr
	for _, a := range addrs {
		if _, err := a.ValueForProtocol(ma.P_TCP); err == nil && onLink(networks, a) {
			near = append(near, a)
		} else {
			others = append(others, a)
		}
	}
	ranked := swarm.DefaultDialRanker(near)
	for _, d := range swarm.DefaultDialRanker(others) {
		if len(near) > 0 {
			d.Delay += nearHead
		}
		ranked = append(ranked, d)
	}
	return ranked
}

// onLink reports whether an address is reached without a router. Host.OnLAN takes
// any private network for the LAN, also one of another site that is routed.
func onLink(networks []net.Addr, a ma.Multiaddr) bool {
	ip, err := manet.ToIP(a)
	return err == nil && slices.ContainsFunc(networks, func(n net.Addr) bool {
		prefix, ok := n.(*net.IPNet)
		return ok && prefix.Contains(ip)
	})
}

// alsoByQUIC adds to each address of TCP the same port by QUIC. Who is told of a
// peer is told of one address, and a node listens on both unless it was
// configured otherwise.
func alsoByQUIC(addrs []ma.Multiaddr) []ma.Multiaddr {
	out := slices.Clone(addrs)
	for _, a := range addrs {
		host, tcp := ma.SplitFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_TCP })
		if len(tcp) != 1 {
			continue
		}
		quic := host.Encapsulate(ma.StringCast("/udp/" + tcp[0].Value() + "/quic-v1"))
		if !containsAddr(out, quic) {
			out = append(out, quic)
		}
	}
	return out
}
