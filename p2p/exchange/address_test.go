package exchange

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"
	ma "github.com/multiformats/go-multiaddr"
)

// at returns hosts at these addresses, each of which reaches the first through
// memory.
func at(t *testing.T, addresses ...string) (hosts []host.Host) {
	t.Helper()
	net := mocknet.New()
	t.Cleanup(func() { _ = net.Close() })
	for i, a := range addresses {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		h, err := net.AddPeer(key, ma.StringCast(a))
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
		if i == 0 {
			continue
		}
		if _, err := net.LinkPeers(hosts[0].ID(), h.ID()); err != nil {
			t.Fatal(err)
		}
		meet(t, h, hosts[0])
	}
	return hosts
}

func addressOfNumber(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), 32)
}

func TestManyIdentitiesAtOneAddressDelayAPeerAtAnotherByFewTurns(t *testing.T) {
	const crowd = 200
	addresses := []string{"/ip4/10.0.0.1/tcp/1"}
	for i := range crowd {
		addresses = append(addresses, fmt.Sprintf("/ip4/10.0.0.66/tcp/%d", i+1))
	}
	hosts := at(t, append(addresses, "/ip4/10.0.0.2/tcp/1", "/ip4/10.0.0.66/tcp/999")...)
	inner, ids := storeOf(20, 100)
	store := &stepStore{mapStore: inner, step: make(chan struct{})}
	const queue = 10_000
	srv, _, _ := loggedServer(t, hosts[0], store, ServerConfig{MaxReads: 1, MaxQueueTotal: queue})
	for _, h := range hosts[1 : crowd+1] {
		ask(t, open(t, h, hosts[0].ID()), Waiting, ids[1:], 1000)
	}
	waitFor(t, "all to wait", func() bool {
		srv.reads.mu.Lock()
		defer srv.reads.mu.Unlock()
		return len(srv.reads.waiting) >= crowd-1
	})
	waitFor(t, "all that is asked to be queued or refused", func() bool {
		total, _ := srv.Stats()
		return srv.queue.n.Load()+int64(total.Refused) >= crowd*(1000-readersPerStream)
	})
	// Half of the places, or the few that each has in any case.
	if n := srv.queue.n.Load(); n > queue/2+crowd*freeQueue {
		t.Errorf("%d requests of one address are queued", n)
	}
	for i, h := range hosts[crowd+1:] {
		cl := NewClient(h, ClientConfig{})
		t.Cleanup(func() { _ = cl.Close() })
		got := make(chan error, 1)
		go func() { _, err := cl.Get(ctxOf(t), hosts[0].ID(), ids[0], Waiting); got <- err }()
		waitFor(t, "the request to wait", func() bool { return srv.waitingOf(h.ID()) == 1 })
		turns := 2 * addressShare // of the address as a whole, and the one being read
		if i == 1 {
			turns = 2 * (crowd + 1) // one of the crowd, as far as can be seen
		}
		for served := false; !served; turns-- {
			if turns == 0 {
				t.Fatalf("peer %d was not served within its turns", i)
			}
			store.step <- struct{}{}
			select {
			case err := <-got:
				if err != nil {
					t.Fatal(err)
				}
				served = true
			case <-time.After(5 * time.Millisecond): // the answer may be on its way
			}
		}
	}
}

func TestPeersOfOneAddressCountForAsManyAsWaitUpToABound(t *testing.T) {
	for _, peers := range []int{1, 5, addressShare, 20 * addressShare} {
		tu, address := newTurns(0, 0), &group{}
		for range peers {
			tu.ask(&account{of: address}, Prefetch, 1000, chunk.MaxSize)
		}
		alone := new(account)
		one := tu.ask(alone, Prefetch, 1000, chunk.MaxSize)
		const turns = 1000
		for range turns {
			before := grantedOf(one)
			tu.done(new(account), 0, 0) // a slot
			if grantedOf(one) > before {
				alone.pay(100 << 10)
			} else {
				address.spent += 100 << 10 / int64(min(peers, addressShare))
			}
		}
		want := turns / (min(peers, addressShare) + 1)
		if n := grantedOf(one); n < want*8/10 || n > want*12/10 {
			t.Errorf("beside %d peers of one address a peer had %d of %d turns, want about %d", peers, n, turns, want)
		}
	}
}

func TestIdentitiesOfOneAddressHoldHalfOfTheMemory(t *testing.T) {
	const bytes, size = 256 << 20, chunk.MaxSize
	tu, address := newTurns(1<<30, bytes), &group{}
	for range 1000 { // each would hold one chunk and never take it
		a := &account{of: address}
		tu.mu.Lock()
		ok := tu.fits(a, size)
		tu.mu.Unlock()
		if !ok {
			break
		}
		if err := tu.take(t.Context(), a, Waiting, size); err != nil {
			t.Fatal(err)
		}
	}
	if address.held < bytes*4/10 || address.held > bytes/2 {
		t.Errorf("one address holds %d of %d bytes", address.held, bytes)
	}
	other := new(account)
	for range 4 {
		if !tu.fits(other, size) {
			t.Fatal("there is no room for a peer at another address")
		}
		if err := tu.take(t.Context(), other, Waiting, size); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStreamsOfACrowdedAddressMakeRoomForOthers(t *testing.T) {
	hosts := at(t, "/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.66/tcp/1", "/ip4/10.0.0.66/tcp/2", "/ip4/10.0.0.66/tcp/3", "/ip4/10.0.0.66/tcp/4", "/ip4/10.0.0.2/tcp/1")
	store, ids := storeOf(1, 1000)
	srv, _, _ := loggedServer(t, hosts[0], store, ServerConfig{MaxStreams: 4})
	for _, h := range hosts[1:5] { // one each: no peer has more than another
		_, _ = open(t, h, hosts[0].ID()).Write(appendHeader(nil, 0x1f, 0))
	}
	waitFor(t, "the streams", func() bool { srv.mu.Lock(); defer srv.mu.Unlock(); return len(srv.streams) == 4 })
	cl := NewClient(hosts[5], ClientConfig{})
	t.Cleanup(func() { _ = cl.Close() })
	if _, err := cl.Get(ctxOf(t), hosts[0].ID(), ids[0], Waiting); err != nil {
		t.Errorf("no room was made: %v", err)
	}
}

func TestAnAddressIsForgottenOnlyWithoutStreams(t *testing.T) {
	hosts := at(t, "/ip4/10.0.0.1/tcp/1", "/ip6/2001:db8:0:1::1/tcp/1", "/ip6/2001:db8:0:ff::1/tcp/1", "/ip6/2001:db8:0:100::1/tcp/1")
	store, ids := storeOf(1, 1000)
	srv, _, _ := loggedServer(t, hosts[0], store, ServerConfig{})
	for _, h := range hosts[1:] {
		cl := NewClient(h, ClientConfig{})
		t.Cleanup(func() { _ = cl.Close() })
		if _, err := cl.Get(context.Background(), hosts[0].ID(), ids[0], Waiting); err != nil {
			t.Fatal(err)
		}
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if n := len(srv.addresses); n != 2 {
		t.Errorf("%d addresses for two /56 networks", n)
	}
	for i := range maxGuests + 100 {
		srv.address(addressOfNumber(i))
	}
	if n := len(srv.addresses); n != maxGuests {
		t.Errorf("%d addresses are remembered, want %d", n, maxGuests)
	}
	for _, h := range hosts[1:] {
		if g := srv.guest(h.ID()); srv.addresses[g.at.key] != g.at {
			t.Errorf("the address %s was forgotten with a stream open", g.at.key)
		}
	}
}
