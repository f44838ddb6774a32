package testnet_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

// TestPeersOfAnotherSiteAreReachedByQUIC has nodes that know one another by an
// address of TCP alone.
func TestPeersOfAnotherSiteAreReachedByQUIC(t *testing.T) {
	if err := fabric.Available(); err != nil {
		t.Skip("no test network here: ", err)
	}
	f, err := fabric.New(fabric.Config{Dir: t.TempDir(), Sites: []fabric.Site{
		{Name: "home", Hosts: []string{"seed", "near"}}, {Name: "edge", Hosts: []string{"far"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	n := networkIn(t, testnet.Config{Fabric: f})
	seed, err := n.Start(t.Context(), "seed")
	if err != nil {
		t.Fatal(err)
	}
	for name, transport := range map[string]string{"near": "/tcp/", "far": "/quic-v1"} {
		node, err := n.Start(t.Context(), name, seed)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.WaitPeers(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		peers, err := node.Peers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		id, err := seed.ID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(peers, func(p api.Peer) bool { return p.ID == id.PeerID })
		otherwise := func(addr string) bool { return !strings.Contains(addr, transport) }
		if i < 0 || len(peers[i].Addrs) == 0 || slices.ContainsFunc(peers[i].Addrs, otherwise) {
			t.Errorf("%s, whose peers are %+v, is not connected to the seed by %s", name, peers, transport)
		}
	}
}
