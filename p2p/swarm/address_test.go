package swarm

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// addressOf takes what follows @ in a name for the peer's address.
func addressOf(p peer.ID) string {
	_, at, _ := strings.Cut(string(p), "@")
	return at
}

// addressed returns a swarm that shares a table and knows addresses, until the
// test ends.
func addressed(t *testing.T, teller Teller, table ChunkTable) (s *Swarm, end func()) {
	t.Helper()
	net := newNetwork()
	s, err := New(Config{Asker: net, Finder: net, Self: "self", Teller: teller, Address: addressOf})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	if err := s.Share(table, []uint32{0}); err != nil {
		t.Fatal(err)
	}
	return s, func() { cancel(); wg.Wait() }
}

func TestManyIdentitiesAtOneAddressLeaveRoomForPeersAtOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		teller := &told{of: map[peer.ID]int{}}
		table := ChunkTable{Root: numbered(0), IDs: []chunk.ID{numbered(1)}}
		s, end := addressed(t, teller, table)
		defer end()
		join := exchange.Message{Kind: exchange.Join, Root: table.Root, Chunks: 1, Have: []byte{0}}
		for i := range 1000 {
			s.Hear(peer.ID(fmt.Sprintf("%d@crowd", i)), join)
			s.Hear(peer.ID(fmt.Sprintf("%d@crowd", i)), exchange.Message{Kind: exchange.Join, Root: numbered(7)})
		}
		time.Sleep(time.Second)
		for _, p := range []peer.ID{"one@home", "two@home", "three@away"} {
			s.Hear(p, join)
			s.Hear(p, exchange.Message{Kind: exchange.Join, Root: numbered(7)})
		}
		time.Sleep(time.Second)
		s.shares.mu.Lock()
		defer s.shares.mu.Unlock()
		sh := s.shares.all[table.Root]
		for _, p := range []peer.ID{"one@home", "two@home", "three@away"} {
			if sh.members[p] == nil || !sh.told[p] || s.shares.interests.of[numbered(7)][p] == nil {
				t.Errorf("%s is no member, is not told, or is not remembered", p)
			}
			teller.mu.Lock()
			if teller.of[p] == 0 {
				t.Errorf("%s was told nothing", p)
			}
			teller.mu.Unlock()
		}
		if n := len(sh.members); n > maxMembers || n < maxMembers-4 {
			t.Errorf("%d members, want about %d", n, maxMembers)
		}
		if n := s.talkers.count(); n > maxTalkers || len(sh.told) > maxMembers {
			t.Errorf("%d peers are told things, %d of the flist", n, len(sh.told))
		}
		teller.mu.Lock()
		defer teller.mu.Unlock()
		if n := len(teller.of); n > maxTalkers {
			t.Errorf("%d peers have not been hushed", n)
		}
	})
}

func TestBitmapsOfAllMembersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks = 512 << 10 // 64 KiB each; their contents do not count here
		table := ChunkTable{Root: numbered(0), IDs: make([]chunk.ID, chunks)}
		s, end := addressed(t, nil, table)
		defer end()
		roots := []chunk.ID{table.Root}
		for i := 1; len(roots)*maxMembers*chunks/8 < 2*memberBytes; i++ {
			roots = append(roots, numbered(i))
			if err := s.Share(ChunkTable{Root: numbered(i), IDs: table.IDs}, nil); err != nil {
				t.Fatal(err)
			}
		}
		for i := range maxMembers {
			for _, root := range roots {
				s.Hear(peer.ID(fmt.Sprintf("%d@crowd", i)), exchange.Message{Kind: exchange.Join, Root: root, Chunks: chunks})
			}
		}
		s.Hear("one@home", exchange.Message{Kind: exchange.Join, Root: table.Root, Chunks: chunks})
		s.shares.mu.Lock()
		defer s.shares.mu.Unlock()
		if n := s.shares.bitmaps(); n > memberBytes || n < memberBytes*3/4 {
			t.Errorf("bitmaps of members have %d bytes, want about %d", n, memberBytes)
		}
		if s.shares.all[table.Root].members["one@home"] == nil {
			t.Error("a peer at another address is no member")
		}
	})
}

func TestPeersBeyondTheUplinkAreToldNewsLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		teller := &told{of: map[peer.ID]int{}}
		table := ChunkTable{Root: numbered(0)}
		for i := range 200 {
			table.IDs = append(table.IDs, numbered(i+1))
		}
		s, end := addressed(t, teller, table)
		defer end()
		for p, site := range map[peer.ID]string{"near": "", "far": "elsewhere"} {
			s.Hear(p, exchange.Message{Kind: exchange.Hello, Site: site})
			s.Hear(p, exchange.Message{Kind: exchange.Join, Root: table.Root, Chunks: 200, Have: make([]byte, 25)})
		}
		for _, id := range table.IDs { // for two seconds
			time.Sleep(10 * time.Millisecond)
			s.Came(id)
		}
		time.Sleep(time.Second)
		teller.mu.Lock()
		defer teller.mu.Unlock()
		if near, far := teller.of["near"], teller.of["far"]; near < 40 || far > 16 || far < 8 {
			t.Errorf("the one at the site was told %d messages, the other %d", near, far)
		}
	})
}
