package p2p

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	ma "github.com/multiformats/go-multiaddr"
)

func TestAddressesOnTheLANAreDialledByTCPFirst(t *testing.T) {
	const (
		nearTCP, nearQUIC = "/ip4/192.168.1.7/tcp/4101", "/ip4/192.168.1.7/udp/4101/quic-v1"
		farTCP, farQUIC   = "/ip4/198.18.0.1/tcp/4101", "/ip4/8.8.8.8/udp/4101/quic-v1"
	)
	for name, c := range map[string]struct{ addrs, want []string }{
		"both, and others": {[]string{farQUIC, nearQUIC, nearTCP}, []string{nearTCP, nearQUIC, farQUIC}},
		"QUIC alone":       {[]string{nearQUIC}, []string{nearQUIC}},
		"beyond the LAN":   {[]string{farTCP, farQUIC}, []string{farQUIC, farTCP}},
		"none":             {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var addrs []ma.Multiaddr
			for _, a := range c.addrs {
				addrs = append(addrs, ma.StringCast(a))
			}
			var got []string
			for i, d := range rankDials(addrs) {
				got = append(got, d.Addr.String())
				if i == 0 && d.Delay != 0 {
					t.Errorf("the first is dialled after %v", d.Delay)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
}
