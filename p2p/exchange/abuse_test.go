package exchange

import (
	"bytes"
	"context"
	"io"

	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"
)

// stepStore lets each read wait until it is told to go on, and notes the order.
type stepStore struct {
	*mapStore
	step chan struct{}
	mu   sync.Mutex
	read []chunk.ID
}

func (s *stepStore) GetPacked(ctx context.Context, id chunk.ID) (chunk.Packed, error) {
	select {
	case <-s.step:
	case <-ctx.Done():
		return chunk.Packed{}, ctx.Err()
	}
	s.mu.Lock()
	s.read = append(s.read, id)
	s.mu.Unlock()
	return s.mapStore.GetPacked(ctx, id)
}

func (s *stepStore) order() []chunk.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}

// inMemory returns hosts that reach one another through memory.
func inMemory(t *testing.T, n int) []host.Host {
	t.Helper()
	net := mocknet.New()
	t.Cleanup(func() { _ = net.Close() })
	for range n {
		if _, err := net.GenPeer(); err != nil {
			t.Fatal(err)
		}
	}
	hosts := net.Hosts()
	for _, h := range hosts[1:] { // a star
		if _, err := net.LinkPeers(hosts[0].ID(), h.ID()); err != nil {
			t.Fatal(err)
		}
	}
	return hosts
}

// meet connects a to b.
func meet(t *testing.T, a, b host.Host) {
	t.Helper()
	if err := a.Connect(ctxOf(t), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
}

// loggedServer returns a server on h, its offences, and what it logs.
func loggedServer(t *testing.T, h host.Host, store Store, cfg ServerConfig) (*Server, *offence.Book, func() string) {
	t.Helper()
	var mu sync.Mutex
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(b)
	}), nil))
	cfg.Log, cfg.Offences = log, offence.NewBook(log)
	srv := NewServer(h, store, cfg)
	t.Cleanup(func() { _ = srv.Close() })
	return srv, cfg.Offences, func() string {
		mu.Lock()
		defer mu.Unlock()
		return out.String()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// open returns a stream to b, on which all answers are taken and dropped.
func open(t *testing.T, a host.Host, b peer.ID) network.Stream {
	t.Helper()
	st, err := a.NewStream(ctxOf(t), b, Protocol)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, st) }()
	return st
}

// ask writes wants for n chunks of ids, over and over.
func ask(t *testing.T, st network.Stream, class Class, ids []chunk.ID, n int) {
	t.Helper()
	for first := 0; first < n; {
		w := want{class: class, first: uint32(first)}
		for len(w.ids) < min(maxWant, n-first) {
			w.ids = append(w.ids, ids[(first+len(w.ids))%len(ids)])
		}
		if _, err := st.Write(w.appendTo(nil)); err != nil {
			t.Fatal(err)
		}
		first += len(w.ids)
	}
}

func (s *Server) queuedOf(p peer.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.guest(p).queued.Load())
}

// waitingOf returns how many requests of p wait for their turn.
func (s *Server) waitingOf(p peer.ID) int {
	s.mu.Lock()
	g := s.guest(p)
	s.mu.Unlock()
	s.reads.mu.Lock()
	defer s.reads.mu.Unlock()
	return g.reads.n
}

func named(t *testing.T, book *offence.Book, logged func() string, p peer.ID, k offence.Kind) {
	t.Helper()
	waitFor(t, "the offence "+string(k), func() bool { return book.Of(p).Counts[k] > 0 })
	waitFor(t, "the offender in the log", func() bool {
		return strings.Contains(logged(), "peer="+p.String()+" offence="+string(k))
	})
}

func TestThousandsOfWantsOfOnePeerDelayAnotherByOneChunk(t *testing.T) {
	hosts := inMemory(t, 3)
	inner, ids := storeOf(20, 100)
	store := &stepStore{mapStore: inner, step: make(chan struct{})}
	srv, book, logged := loggedServer(t, hosts[0], store, ServerConfig{MaxReads: 1})
	greedy, victim := hosts[1], hosts[2]
	meet(t, greedy, hosts[0])
	meet(t, victim, hosts[0])
	for range 8 {
		ask(t, open(t, greedy, hosts[0].ID()), Waiting, ids[1:], 1250)
	}
	named(t, book, logged, greedy.ID(), offence.Wants)
	if n := srv.queuedOf(greedy.ID()); n > 2048 || n < 2000 {
		t.Errorf("%d of 10,000 requests are queued, want 2048", n)
	}
	for range 100 {
		store.step <- struct{}{}
	}
	cl := NewClient(victim, ClientConfig{})
	t.Cleanup(func() { _ = cl.Close() })
	got := make(chan error, 1)
	go func() { _, err := cl.Get(ctxOf(t), hosts[0].ID(), ids[0], Waiting); got <- err }()
	waitFor(t, "the other's request to wait", func() bool { return srv.waitingOf(victim.ID()) == 1 })
	before := len(store.order())
	for range 3 { // what is being read, perhaps one more of the greedy one, and it
		store.step <- struct{}{}
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	for i, id := range store.order()[before:] {
		if id == ids[0] && i > 2 {
			t.Errorf("the other's chunk was read after %d of the greedy one's", i)
		}
	}
}

func TestAHundredPeersAreServedInTurns(t *testing.T) {
	const peers, each, reads = 100, 20, 4
	hosts := inMemory(t, peers+2)
	inner, ids := storeOf(40, 100)
	store := &stepStore{mapStore: inner, step: make(chan struct{})}
	srv, book, _ := loggedServer(t, hosts[0], store, ServerConfig{MaxReads: reads})
	for _, h := range hosts[1:] {
		meet(t, h, hosts[0])
	}
	crowd, late := hosts[1:peers+1], hosts[peers+1]
	var served sync.WaitGroup
	var failed atomic.Int64
	for _, h := range crowd {
		cl := NewClient(h, ClientConfig{StallTimeout: time.Minute})
		t.Cleanup(func() { _ = cl.Close() })
		for i := range each {
			served.Go(func() {
				if _, err := cl.Get(ctxOf(t), hosts[0].ID(), ids[1+i], Prefetch); err != nil {
					failed.Add(1)
				}
			})
		}
	}
	all := func(ok func(peer.ID) bool) func() bool {
		return func() bool {
			for _, h := range crowd {
				if !ok(h.ID()) {
					return false
				}
			}
			return true
		}
	}
	waitFor(t, "all requests to come", all(func(p peer.ID) bool {
		return srv.queuedOf(p)+readersPerStream == each
	}))
	cl := NewClient(late, ClientConfig{StallTimeout: time.Minute})
	t.Cleanup(func() { _ = cl.Close() })
	got := make(chan error, 1)
	go func() { _, err := cl.Get(ctxOf(t), hosts[0].ID(), ids[0], Prefetch); got <- err }()
	waitFor(t, "the late request to wait", func() bool { return srv.waitingOf(late.ID()) == 1 })
	for range peers + 2*reads { // a turn of each, and what is being read
		store.step <- struct{}{}
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	close(store.step)
	served.Wait()
	waitFor(t, "all chunks to be counted", func() bool { total, _ := srv.Stats(); return total.Chunks >= peers*each+1 })
	if total, _ := srv.Stats(); failed.Load() > 0 || total.Chunks != peers*each+1 {
		t.Errorf("%d requests failed, %d chunks were served", failed.Load(), total.Chunks)
	}
	if n := len(book.All()); n > 0 {
		t.Errorf("%d of the peers are named as offenders", n)
	}
}

func TestAMillionWantsForNothingAreReadSlowly(t *testing.T) {
	hosts := inMemory(t, 3)
	store, ids := storeOf(10, 1000)
	srv, book, logged := loggedServer(t, hosts[0], store, ServerConfig{})
	greedy, victim := hosts[1], hosts[2]
	meet(t, greedy, hosts[0])
	meet(t, victim, hosts[0])
	st, err := greedy.NewStream(ctxOf(t), hosts[0].ID(), Protocol)
	if err != nil {
		t.Fatal(err)
	}
	var answered atomic.Int64
	var flood sync.WaitGroup
	flood.Go(func() { // never more at a time than are queued
		answers := make([]byte, maxWant*(headerSize+idSize))
		for i := range 4096 {
			w := want{first: uint32(i * maxWant), ids: make([]chunk.ID, maxWant)}
			if _, err := st.Write(w.appendTo(nil)); err != nil {
				return
			}
			if _, err := io.ReadFull(st, answers); err != nil {
				return
			}
			answered.Add(maxWant)
		}
	})
	named(t, book, logged, greedy.ID(), offence.Wants)
	cl := NewClient(victim, ClientConfig{})
	t.Cleanup(func() { _ = cl.Close() })
	for _, id := range ids {
		if _, err := cl.Get(ctxOf(t), hosts[0].ID(), id, Waiting); err != nil {
			t.Fatal(err)
		}
	}
	_ = st.Reset()
	flood.Wait()
	if total, _ := srv.Stats(); total.Refused > 0 || answered.Load() == 4096*maxWant {
		t.Errorf("%d wants were answered, %d refused", answered.Load(), total.Refused)
	}
}

func TestAPeerThatOpensStreamsWithoutEndIsCutOff(t *testing.T) {
	hosts := []host.Host{newHost(t), newHost(t), newHost(t)}
	store, ids := storeOf(1, 1000)
	srv, book, logged := loggedServer(t, hosts[0], store, ServerConfig{})
	greedy, victim := hosts[1], hosts[2]
	meet(t, greedy, hosts[0])
	meet(t, victim, hosts[0])
	// It takes what it is given before it is found out; a cut connection ends it.
	cut := false
	for i := 0; i < 5000 && !cut; i++ {
		st, err := greedy.NewStream(network.WithNoDial(ctxOf(t), "test"), hosts[0].ID(), Protocol)
		if err != nil {
			cut = true
			break
		}
		_, _ = st.Write([]byte{byte(frameWant)})
		srv.mu.Lock()
		n := srv.guest(greedy.ID()).streams
		srv.mu.Unlock()
		if n > 8 {
			t.Fatalf("%d streams of one peer are served", n)
		}
	}
	if !cut {
		t.Error("5000 streams were opened")
	}
	named(t, book, logged, greedy.ID(), offence.Streams)
	waitFor(t, "the peer to be cut off", func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return srv.guest(greedy.ID()).bannedUntil.After(time.Now())
	})
	cl := NewClient(victim, ClientConfig{})
	t.Cleanup(func() { _ = cl.Close() })
	if _, err := cl.Get(ctxOf(t), hosts[0].ID(), ids[0], Waiting); err != nil {
		t.Errorf("another peer: %v", err)
	}
}

func TestStreamsThatAreIdleOrTooManyMakeRoomForOthers(t *testing.T) {
	hosts := inMemory(t, 4)
	store, ids := storeOf(1, 1000)
	srv, _, _ := loggedServer(t, hosts[0], store, ServerConfig{MaxStreams: 6})
	for _, h := range hosts[1:] {
		meet(t, h, hosts[0])
	}
	count := func(h host.Host) func() bool {
		return func() bool {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			return srv.guest(h.ID()).streams > 0
		}
	}
	for range 6 { // all there are
		_, _ = open(t, hosts[1], hosts[0].ID()).Write(appendHeader(nil, 0x1f, 0))
	}
	waitFor(t, "the streams", func() bool { srv.mu.Lock(); defer srv.mu.Unlock(); return len(srv.streams) == 6 })
	for _, h := range hosts[2:] {
		cl := NewClient(h, ClientConfig{})
		t.Cleanup(func() { _ = cl.Close() })
		if _, err := cl.Get(ctxOf(t), hosts[0].ID(), ids[0], Waiting); err != nil {
			t.Errorf("no room was made: %v", err)
		}
		waitFor(t, "its stream", count(h))
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if n := len(srv.streams); n > 6 {
		t.Errorf("%d streams", n)
	}
	// Now nobody has more than others; only who is idle makes room.
	g := newGuest("new")
	g.streams, g.at = 5, srv.guest(hosts[1].ID()).at
	if srv.makeRoom(g, time.Now()) {
		t.Error("room was made for one who has most")
	}
	if !srv.makeRoom(g, time.Now().Add(idleAfter)) {
		t.Error("an idle stream made no room")
	}
}

func TestPeersThatTakeNoAnswersDoNotHoldTheMemory(t *testing.T) {
	const size, peers = 512 << 10, 4
	hosts := make([]host.Host, peers+2)
	for i := range hosts {
		hosts[i] = newHost(t)
	}
	store, ids := storeOf(8, size)
	srv, book, logged := loggedServer(t, hosts[0], store, ServerConfig{MaxBytes: 64 << 20, WriteTimeout: time.Second})
	for _, h := range hosts[1:] {
		meet(t, h, hosts[0])
	}
	for _, h := range hosts[1 : peers+1] {
		for range 4 {
			st, err := h.NewStream(ctxOf(t), hosts[0].ID(), Protocol)
			if err != nil {
				t.Fatal(err)
			}
			ask(t, st, Waiting, ids, 400) // 200 MiB, never taken
		}
	}
	most := int64(0)
	look := func() {
		srv.mu.Lock()
		var guests []*guest
		for _, h := range hosts[1 : peers+1] {
			guests = append(guests, srv.guests[h.ID()])
		}
		srv.mu.Unlock()
		srv.reads.mu.Lock()
		defer srv.reads.mu.Unlock()
		most = max(most, srv.reads.bytes-srv.reads.room)
		for _, g := range guests {
			if g != nil && g.reads.held > 64<<20/shareOfRoom {
				t.Errorf("%d bytes are held for one peer", g.reads.held)
			}
		}
	}
	cl := NewClient(hosts[peers+1], ClientConfig{})
	t.Cleanup(func() { _ = cl.Close() })
	for _, id := range ids {
		look()
		if _, err := cl.Get(ctxOf(t), hosts[0].ID(), id, Waiting); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range hosts[1 : peers+1] {
		named(t, book, logged, h.ID(), offence.Stalled)
	}
	waitFor(t, "the memory to be given back", func() bool {
		srv.reads.mu.Lock()
		defer srv.reads.mu.Unlock()
		return srv.reads.room == srv.reads.bytes
	})
	if most == 0 || most > 64<<20 {
		t.Errorf("%d bytes were held", most)
	}
}

func TestAPeerThatTellsWithoutEndIsReadSlowly(t *testing.T) {
	hosts := inMemory(t, 3)
	store, _ := storeOf(1, 100)
	var heard, other atomic.Int64
	greedy, quiet := hosts[1], hosts[2]
	_, book, logged := loggedServer(t, hosts[0], store, ServerConfig{Heard: func(p peer.ID, _ Message) {
		if p == greedy.ID() {
			heard.Add(1)
		} else {
			other.Add(1)
		}
	}})
	meet(t, greedy, hosts[0])
	meet(t, quiet, hosts[0])
	var flood sync.WaitGroup
	var streams []network.Stream
	var sent atomic.Int64
	const total = 200_000
	leave := bytes.Repeat(Message{Kind: Leave}.appendTo(nil), 100)
	for range 4 {
		st := open(t, greedy, hosts[0].ID())
		streams = append(streams, st)
		flood.Go(func() {
			for range total / 400 {
				if _, err := st.Write(leave); err != nil {
					return
				}
				sent.Add(100)
			}
		})
	}
	named(t, book, logged, greedy.ID(), offence.Talk)
	cl := NewClient(quiet, ClientConfig{})
	t.Cleanup(func() { _ = cl.Close() })
	if err := cl.Tell(ctxOf(t), hosts[0].ID(), Message{Kind: Hello, Site: "here"}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the other peer to be heard", func() bool { return other.Load() == 1 })
	for _, st := range streams {
		_ = st.Reset()
	}
	flood.Wait()
	if heard.Load() >= total {
		t.Errorf("all %d messages were heard at once", total)
	}
}

func TestNobodyIsRememberedToWhomNothingCouldBeTold(t *testing.T) {
	hosts := inMemory(t, 1)
	cl := NewClient(hosts[0], ClientConfig{})
	t.Cleanup(func() { _ = cl.Close() })
	for i := range 100 {
		if err := cl.Tell(ctxOf(t), peer.ID(chunk.Sum([]byte{byte(i)}).Multihash()), Message{Kind: Hello}); err == nil {
			t.Fatal("a peer that is not there was told something")
		}
	}
	if n := len(cl.talks); n != 0 {
		t.Errorf("%d peers are remembered", n)
	}
}

func TestPeersServedAreRememberedWithinABound(t *testing.T) {
	srv := &Server{guests: map[peer.ID]*guest{}}
	for i := range maxGuests + 1000 {
		id := peer.ID(chunk.Sum([]byte{byte(i), byte(i >> 8)}).Multihash())
		srv.guest(id).bannedUntil = time.Now().Add(time.Hour)
	}
	if n := len(srv.guests); n != maxGuests {
		t.Errorf("%d peers are remembered, want %d", n, maxGuests)
	}
	busy := srv.guest("busy")
	busy.streams = 1
	for i := range 1000 {
		srv.guest(peer.ID(chunk.Sum([]byte{byte(i), byte(i >> 8), 1}).Multihash()))
	}
	if srv.guest("busy") != busy {
		t.Error("a peer that is being served was forgotten")
	}
}
