package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/flistnode/flistnode/p2p/offence"
)

func TestPeerThatCannotBeReachedIsNamed(t *testing.T) {
	const away = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
	n := startNode(t, "n", func(c *Config) {
		c.Peers = []string{"/ip4/127.0.0.1/tcp/1/p2p/" + away}
		c.ReadTimeout, c.FetchTimeout = time.Second, time.Second
	})
	var status api.Status
	waitFor(t, "the peer to be found unreachable", func() bool {
		var err error
		status, err = n.Status(t.Context())
		must(t, err)
		return len(status.Unreached) > 0
	})
	if p := status.Unreached[0]; p.ID != away || !strings.Contains(p.Error, "refused") || strings.Contains(p.Error, "\n") {
		t.Errorf("unreached: %+v", p)
	}
	_, err := n.swarm.Get(t.Context(), chunk.Sum([]byte("nobody has it")))
	if !errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), away) {
		t.Errorf("not found: %v", err)
	}
}

func TestAPeerThatWasCutOffIsListedWithWhatItDid(t *testing.T) {
	a := startNode(t, "a", nil)
	b := startNode(t, "b", nil, a)
	st, err := b.host.Libp2p().NewStream(t.Context(), a.host.ID(), exchange.Protocol)
	must(t, err)
	_, err = st.Write([]byte("this is no frame at all"))
	must(t, err)
	var got api.Peer
	waitFor(t, "the offender to be listed", func() bool { // it may be connected again by then
		peers, err := a.Peers(t.Context())
		must(t, err)
		for _, p := range peers {
			if p.ID == b.host.ID().String() {
				got = p
			}
		}
		return len(got.Offences) > 0
	})
	if got.Offences["malformed"]+got.Offences["oversized"] != 1 || len(got.Offences) != 1 {
		t.Errorf("offences %v", got.Offences)
	}
	// One that is connected is listed once, offences and all.
	a.offences.Note("not a peer of a long while ago", offence.Stalled, "")
	a.offences.Note(b.host.ID(), offence.Forged, "")
	waitFor(t, "the offender to dial again", func() bool { // a dial of its keeper may have met the cut
		b.host.Libp2p().Network().(*swarm.Swarm).Backoff().Clear(a.host.ID())
		return b.host.Connect(t.Context(), peer.AddrInfo{ID: a.host.ID(), Addrs: a.host.Libp2p().Addrs()}) == nil
	})
	waitFor(t, "the offender to be connected again", func() bool {
		peers, err := a.Peers(t.Context())
		must(t, err)
		if len(peers) != 2 {
			t.Fatalf("%d peers are listed", len(peers))
		}
		return peers[0].Direction != api.NotConnected && peers[0].Offences["forged"] == 1 && peers[1].Direction == api.NotConnected
	})
}

func TestPeerWithAnotherSwarmKeyIsAskedAbout(t *testing.T) {
	key := func(c *Config, digit string) {
		c.SwarmKey = filepath.Join(t.TempDir(), "swarm.key")
		must(t, os.WriteFile(c.SwarmKey, []byte("/key/swarm/psk/1.0.0/\n/base16/\n"+strings.Repeat(digit, 64)+"\n"), 0o600))
	}
	a := startNode(t, "a", func(c *Config) { key(c, "1") })
	b := startNode(t, "b", func(c *Config) {
		key(c, "2")
		c.Peers = a.addrs()
	})
	waitFor(t, "the peer to be found unreachable", func() bool { return len(b.unreached()) > 0 })
	if got := b.unreached()[0].Answer; !strings.HasPrefix(got, "have both nodes the same swarm key, or none?") {
		t.Error(got)
	}
}
