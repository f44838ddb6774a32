package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
)

// mapStore is a Store in memory. While hold is not nil, reads wait for it.
type mapStore struct {
	mu    sync.Mutex
	m     map[chunk.ID]chunk.Packed
	hold  chan struct{}
	reads atomic.Int64
}

func (s *mapStore) GetPacked(ctx context.Context, id chunk.ID) (chunk.Packed, error) {
	s.reads.Add(1)
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
			return chunk.Packed{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.m[id]
	if !ok {
		return p, fmt.Errorf("map: %w", chunk.ErrNotFound)
	}
	return p, nil
}

func storeOf(n, size int) (*mapStore, []chunk.ID) {
	s := &mapStore{m: map[chunk.ID]chunk.Packed{}}
	rng := rand.NewChaCha8([32]byte{1})
	var ids []chunk.ID
	for range n {
		data := make([]byte, size)
		_, _ = rng.Read(data)
		id := chunk.Sum(data)
		s.m[id] = chunk.Packed{ID: id, Size: size, Bytes: data}
		ids = append(ids, id)
	}
	return s, ids
}

func newHost(t testing.TB) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.Security(noise.ID, noise.New))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// pair returns two connected hosts.
func pair(t testing.TB) (a, b host.Host) {
	t.Helper()
	a, b = newHost(t), newHost(t)
	if err := a.Connect(ctxOf(t), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// serve starts a server for store on one host and a client on another.
func serve(t testing.TB, store Store, sc ServerConfig, cc ClientConfig) (*Client, *Server, peer.ID) {
	t.Helper()
	a, b := pair(t)
	srv, cl := NewServer(b, store, sc), NewClient(a, cc)
	t.Cleanup(func() { _ = cl.Close(); _ = srv.Close() })
	return cl, srv, b.ID()
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func TestManyRequestsAtOnceAreAnswered(t *testing.T) {
	store, ids := storeOf(300, 20_000)
	cl, srv, p := serve(t, store, ServerConfig{}, ClientConfig{})
	absent := chunk.Sum([]byte("nobody has this"))
	var wg sync.WaitGroup
	for i, id := range append(ids, absent) {
		wg.Go(func() {
			got, err := cl.Get(ctxOf(t), p, id, Class(i%int(numClasses)))
			if id == absent {
				if !errors.Is(err, ErrMissing) || !errors.Is(err, chunk.ErrNotFound) {
					t.Errorf("absent chunk: %v", err)
				}
				return
			}
			if err != nil {
				t.Error(err)
			} else if data, err := got.Open(); err != nil || !bytes.Equal(data, store.m[id].Bytes) {
				t.Errorf("chunk %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	waitFor(t, "the server's counts", func() bool {
		total, peers := srv.Stats()
		return total.Chunks == 300 && total.BytesSent == 300*20_000 && total.Missing == 1 && len(peers) == 1
	})
}

func TestFailingStoreIsARefusal(t *testing.T) {
	cl, _, p := serve(t, failingStore{}, ServerConfig{}, ClientConfig{})
	if _, err := cl.Get(ctxOf(t), p, chunk.ID{}, Waiting); !errors.Is(err, ErrRefused) {
		t.Errorf("Get = %v, want ErrRefused", err)
	}
}

type failingStore struct{}

func (failingStore) GetPacked(context.Context, chunk.ID) (chunk.Packed, error) {
	return chunk.Packed{}, errors.New("disk on fire")
}

func TestFullQueueIsBusy(t *testing.T) {
	store, ids := storeOf(20, 100)
	store.hold = make(chan struct{})
	cl, _, p := serve(t, store, ServerConfig{MaxQueue: 4}, ClientConfig{})
	var busy, good atomic.Int64
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			switch _, err := cl.Get(ctxOf(t), p, id, Prefetch); {
			case err == nil:
				good.Add(1)
			case errors.Is(err, ErrBusy):
				busy.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	// readersPerStream are being read, 4 wait, the others are refused.
	waitFor(t, "refusals", func() bool { return busy.Load() >= int64(len(ids)-4-readersPerStream) })
	close(store.hold)
	wg.Wait()
	if good.Load() == 0 || good.Load()+busy.Load() != int64(len(ids)) {
		t.Errorf("%d served and %d busy of %d", good.Load(), busy.Load(), len(ids))
	}
}

func TestCancelledRequestDoesNotEndOthers(t *testing.T) {
	store, ids := storeOf(3, 1000)
	store.hold = make(chan struct{})
	cl, _, p := serve(t, store, ServerConfig{}, ClientConfig{Window: 1})
	ctx, cancel := context.WithCancel(ctxOf(t))
	gone := make(chan error, 1)
	go func() { _, err := cl.Get(ctx, p, ids[0], Waiting); gone <- err }()
	waitFor(t, "the first read", func() bool { return store.reads.Load() > 0 })
	others := make(chan error, 2)
	for _, id := range ids[1:] {
		go func() { _, err := cl.Get(ctxOf(t), p, id, Waiting); others <- err }()
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Get = %v", err)
	}
	close(store.hold)
	for range 2 {
		if err := <-others; err != nil {
			t.Error(err)
		}
	}
}

func TestStalledPeerIsTimedOut(t *testing.T) {
	store, ids := storeOf(1, 1000)
	store.hold = make(chan struct{})
	cl, _, p := serve(t, store, ServerConfig{}, ClientConfig{StallTimeout: 100 * time.Millisecond})
	if _, err := cl.Get(ctxOf(t), p, ids[0], Waiting); !errors.Is(err, ErrStalled) {
		t.Errorf("Get = %v, want ErrStalled", err)
	}
	close(store.hold) // it is well again
	if _, err := cl.Get(ctxOf(t), p, ids[0], Waiting); err != nil {
		t.Errorf("Get after recovery: %v", err)
	}
}

func TestIdleStreamIsClosedAndOpenedAgain(t *testing.T) {
	store, ids := storeOf(2, 1000)
	cl, _, p := serve(t, store, ServerConfig{}, ClientConfig{IdleTimeout: 20 * time.Millisecond})
	for _, id := range ids {
		if _, err := cl.Get(ctxOf(t), p, id, Waiting); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the idle stream to end", func() bool {
			cl.mu.Lock()
			defer cl.mu.Unlock()
			return len(cl.lanes) == 0
		})
	}
}

func TestPeerThatBreaksTheProtocolIsCutOff(t *testing.T) {
	_, ids := storeOf(1, 10)
	for name, sent := range map[string][]byte{
		"garbage":         bytes.Repeat([]byte("garbage!"), 100),
		"join too long":   appendHeader(nil, frameType(Join), maxFrameSize),
		"oversized want":  appendHeader(nil, frameWant, 1<<30),
		"ragged want":     append(appendHeader(nil, frameWant, wantFixed+33), make([]byte, wantFixed+33)...),
		"wrapping want":   want{first: 1<<32 - 1, ids: []chunk.ID{ids[0], ids[0]}}.appendTo(nil),
		"answer":          appendIDs(nil, frameMissing, 1),
		"unknown too big": appendHeader(nil, 0x15, maxFrameSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			store, _ := storeOf(1, 10)
			a, b := pair(t)
			srv, book, logged := loggedServer(t, b, store, ServerConfig{Heard: func(peer.ID, Message) {}})
			st, err := a.NewStream(ctxOf(t), b.ID(), Protocol)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write(sent); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(st); err == nil {
				t.Error("the stream ended in peace, want a reset")
			}
			waitFor(t, "the connection to be closed", func() bool {
				return b.Network().Connectedness(a.ID()) != network.Connected
			})
			if total, _ := srv.Stats(); total.Violations != 1 {
				t.Errorf("violations = %d, want 1", total.Violations)
			}
			kind := offence.Malformed
			if h, err := readHeader(bytes.NewReader(sent)); err != nil || h.size == maxFrameSize {
				kind = offence.Oversized // more bytes were announced than may be
			}
			named(t, book, logged, a.ID(), kind)
		})
	}
}

func TestPeerThatBrokeTheProtocolIsNotServedForAWhile(t *testing.T) {
	store, ids := storeOf(1, 10)
	a, b := pair(t)
	srv := NewServer(b, store, ServerConfig{BanTime: time.Hour})
	cl := NewClient(a, ClientConfig{})
	t.Cleanup(func() { _ = cl.Close(); _ = srv.Close() })
	st, err := a.NewStream(ctxOf(t), b.ID(), Protocol)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write([]byte("garbage, to be cut off")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the violation", func() bool { total, _ := srv.Stats(); return total.Violations == 1 })
	waitFor(t, "the connection to be closed", func() bool {
		return a.Network().Connectedness(b.ID()) != network.Connected
	})
	if _, err := cl.Get(ctxOf(t), b.ID(), ids[0], Waiting); err == nil {
		t.Error("served right after a violation")
	}
	srv.mu.Lock()
	srv.guest(a.ID()).bannedUntil = time.Now() // the hour is over
	srv.mu.Unlock()
	waitFor(t, "service after the ban", func() bool {
		_, err := cl.Get(ctxOf(t), b.ID(), ids[0], Waiting)
		return err == nil
	})
}

func TestClientCutsOffAServerThatBreaksTheProtocol(t *testing.T) {
	bomb := append(appendHeader(nil, frameChunk, chunkFixed+4), 0, 0, 0, 0, byte(chunk.Plain), 0xff, 0xff, 0xff, 0xff)
	for name, sent := range map[string][]byte{
		"garbage":       bytes.Repeat([]byte("garbage!"), 100),
		"chunk too big": appendHeader(nil, frameChunk, maxChunkSize+1),
		"size too big":  append(bomb, 1, 2, 3, 4),
		"not asked for": appendIDs(nil, frameMissing, 77),
		"request":       appendIDs(nil, frameCancel, 1),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			b.SetStreamHandler(Protocol, func(st network.Stream) {
				_, _ = io.ReadFull(st, make([]byte, headerSize))
				_, _ = st.Write(sent)
			})
			book := offence.NewBook(slog.New(slog.DiscardHandler))
			cl := NewClient(a, ClientConfig{Offences: book})
			t.Cleanup(func() { _ = cl.Close() })
			var bad *ProtocolError
			if _, err := cl.Get(ctxOf(t), b.ID(), chunk.ID{}, Waiting); !errors.As(err, &bad) {
				t.Errorf("Get = %v, want a ProtocolError", err)
			}
			waitFor(t, "the connection to be closed", func() bool {
				return a.Network().Connectedness(b.ID()) != network.Connected
			})
			if c := book.Of(b.ID()).Counts; c[offence.Malformed]+c[offence.Oversized] != 1 {
				t.Errorf("offences %v", c)
			}
		})
	}
}

func TestUnknownFramesAreSkipped(t *testing.T) {
	store, ids := storeOf(1, 10)
	a, b := pair(t)
	srv := NewServer(b, store, ServerConfig{})
	t.Cleanup(func() { _ = srv.Close() })
	st, err := a.NewStream(ctxOf(t), b.ID(), Protocol)
	if err != nil {
		t.Fatal(err)
	}
	sent := append(appendHeader(nil, 0x10, 100_000), make([]byte, 100_000)...)
	if _, err := st.Write(want{ids: ids}.appendTo(sent)); err != nil {
		t.Fatal(err)
	}
	if h, err := readHeader(st); err != nil || h.typ != frameChunk {
		t.Errorf("answer after an unknown frame: %+v, %v", h, err)
	}
}

func TestCloseFailsWhatIsInFlight(t *testing.T) {
	store, ids := storeOf(1, 10)
	store.hold = make(chan struct{})
	cl, srv, p := serve(t, store, ServerConfig{}, ClientConfig{})
	got := make(chan error, 1)
	go func() { _, err := cl.Get(ctxOf(t), p, ids[0], Waiting); got <- err }()
	waitFor(t, "the read", func() bool { return store.reads.Load() > 0 })
	_ = cl.Close()
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Errorf("Get = %v, want ErrClosed", err)
	}
	if _, err := cl.Get(ctxOf(t), p, ids[0], Waiting); !errors.Is(err, ErrClosed) {
		t.Errorf("Get after Close = %v", err)
	}
	_ = srv.Close()
}

func TestUrgentClassesGoFirst(t *testing.T) {
	q := newServeQueue(10, 10, new(atomic.Int64), new(atomic.Int64), &backlog{most: 100})
	for i, c := range []Class{Replication, Prefetch, Waiting, Readahead, Waiting} {
		q.push(want{class: c, first: uint32(i), ids: make([]chunk.ID, 1)})
	}
	q.close()
	var order []uint32
	for {
		r, ok := q.pop(t.Context())
		if !ok {
			break
		}
		order = append(order, r.id)
	}
	if fmt.Sprint(order) != "[2 4 3 1 0]" {
		t.Errorf("order %v", order)
	}
}

func BenchmarkLoopback(b *testing.B) {
	for _, size := range []int{64 << 10, 128 << 10, 512 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			store, ids := storeOf(64, size)
			cl, _, p := serve(b, store, ServerConfig{}, ClientConfig{})
			b.SetBytes(int64(size))
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range 32 {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						if _, err := cl.Get(context.Background(), p, ids[i%64], Prefetch); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkRawStream is what there is to reach: bytes over one libp2p stream
// with the same security, without any protocol.
func BenchmarkRawStream(b *testing.B) {
	const size = 128 << 10
	x, y := pair(b)
	y.SetStreamHandler("/raw", func(st network.Stream) {
		_, _ = io.Copy(io.Discard, st)
		_ = st.Close()
	})
	st, err := x.NewStream(ctxOf(b), y.ID(), "/raw")
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, size)
	b.SetBytes(size)
	b.ResetTimer()
	for range b.N {
		if _, err := st.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	_ = st.CloseWrite()
	_, _ = io.Copy(io.Discard, st)
}
