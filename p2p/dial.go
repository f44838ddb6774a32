package p2p

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// nearHead is how long before all others the addresses on the LAN are dialled
// by TCP. That is enough for a handshake there.
const nearHead = 100 * time.Millisecond

// rankDials says in which order the addresses of a peer are dialled. libp2p
// prefers QUIC; but over a LAN TCP carries two to three times as much for the
// same CPU, and it is there that most bytes are moved.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	var near, others []ma.Multiaddr
	for _, a := range addrs {
		if _, err := a.ValueForProtocol(ma.P_TCP); err == nil && manet.IsPrivateAddr(a) {
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
