package p2p

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	ma "github.com/multiformats/go-multiaddr"
)

func TestAddressesOnALinkAreDialledByTCPFirst(t *testing.T) {
	const (
		nearTCP, nearQUIC = "/ip4/192.168.1.7/tcp/4101", "/ip4/192.168.1.7/udp/4101/quic-v1"
		farTCP, farQUIC   = "/ip4/192.168.2.7/tcp/4101", "/ip4/192.168.2.7/udp/4101/quic-v1"
		publicQUIC        = "/ip4/8.8.8.8/udp/4101/quic-v1"
	)
	networks := []net.Addr{
		&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
		&net.IPNet{IP: net.IPv4(192, 168, 1, 3), Mask: net.CIDRMask(24, 32)},
	}
	for name, c := range map[string]struct{ addrs, want []string }{
		"both, and others": {[]string{publicQUIC, nearQUIC, nearTCP}, []string{nearTCP, nearQUIC, publicQUIC}},
		"QUIC alone":       {[]string{nearQUIC}, []string{nearQUIC}},
		"behind a router":  {[]string{farTCP, farQUIC}, []string{farQUIC, farTCP}},
		"none":             {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var addrs []ma.Multiaddr
			for _, a := range c.addrs {
				addrs = append(addrs, ma.StringCast(a))
			}
			var got []string
			for i, d := range rankFrom(networks, addrs) {
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

func TestAPeerNamedByTCPIsAlsoDialledByQUIC(t *testing.T) {
	var addrs []ma.Multiaddr
	for _, a := range []string{
		"/ip4/192.168.2.7/tcp/4101", "/dns4/hub.example/tcp/1", "/ip6/2001:db8::1/tcp/2", "/ip6/2001:db8::1/udp/2/quic-v1",
		"/ip4/192.168.2.8/tcp/80/ws",
	} {
		addrs = append(addrs, ma.StringCast(a))
	}
	var added []string
	for _, a := range alsoByQUIC(addrs)[len(addrs):] {
		added = append(added, a.String())
	}
	want := []string{"/ip4/192.168.2.7/udp/4101/quic-v1", "/dns4/hub.example/udp/1/quic-v1"}
	if diff := cmp.Diff(want, added); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
}
