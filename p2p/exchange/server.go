package exchange

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/limit"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Store gives chunks as they rest. GetPacked returns an error that matches
// chunk.ErrNotFound for a chunk it does not hold; it must not fetch. The bytes
// of the result are only read.
type Store interface {
	GetPacked(ctx context.Context, id chunk.ID) (chunk.Packed, error)
}

// ServerConfig bounds a Server. A zero field takes its default.
type ServerConfig struct {
	MaxStreamsPerPeer int                        // 8
	MaxStreams        int                        // 1024, of all peers together
	MaxQueue          int                        // 1024 requests waiting on a stream; one more is answered "busy"
	MaxQueuePerPeer   int                        // 2048 on all streams of a peer
	MaxQueueTotal     int                        // 262,144 of all peers; those at one address have half of what is free
	MaxReads          int                        // 32 reads of the store at a time
	MaxBytes          int64                      // 256 MiB of chunks read but not yet written
	WriteTimeout      time.Duration              // 20 s for a write of at most 128 KiB
	IdleTimeout       time.Duration              // 5 min without a frame ends a stream
	BanTime           time.Duration              // 1 min without service for a peer that broke the protocol
	Upload            *limit.Limit               // of chunks sent; nil: none
	Heard             func(p peer.ID, m Message) // takes what peers tell, quickly; nil skips it
	Recycle           func([]byte)               // takes back the bytes of a chunk of the Store after they were sent; may be nil
	Offences          *offence.Book              // notes what peers do that they should not; nil: one of the server's own
	Log               *slog.Logger               // discards when nil
}

func (c *ServerConfig) setDefaults() {
	setDefault(&c.MaxStreamsPerPeer, 8)
	setDefault(&c.MaxStreams, 1024)
	setDefault(&c.MaxQueue, 1024)
	setDefault(&c.MaxQueuePerPeer, 2048)
	setDefault(&c.MaxQueueTotal, 1<<18)
	setDefault(&c.MaxReads, 32)
	setDefault(&c.MaxBytes, 256<<20)
	setDefault(&c.WriteTimeout, 20*time.Second)
	setDefault(&c.IdleTimeout, 5*time.Minute)
	setDefault(&c.BanTime, time.Minute)
	if c.Recycle == nil {
		c.Recycle = func([]byte) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Offences == nil {
		c.Offences = offence.NewBook(c.Log)
	}
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Server answers the requests of other nodes from a Store.
type Server struct {
	host  host.Host
	store Store
	cfg   ServerConfig
	reads *turns           // to read the store, and to hold what was read until it is written
	sends [numLanes]*turns // to send while there is a limit
	queue backlog

	mu        sync.Mutex
	closed    bool
	streams   map[*served]struct{}
	guests    map[peer.ID]*guest        // all ever served, at most maxGuests
	addresses map[netip.Prefix]*address // of guests, at most maxGuests
	total     ServerStats
	wg        sync.WaitGroup
}

// NewServer starts to answer requests that reach h. End it with Close.
func NewServer(h host.Host, store Store, cfg ServerConfig) *Server {
	cfg.setDefaults()
	s := &Server{
		host: h, store: store, cfg: cfg,
		reads:   newTurns(cfg.MaxReads, cfg.MaxBytes),
		sends:   [numLanes]*turns{newTurns(1, 0), newTurns(1, 0)},
		streams: map[*served]struct{}{},
		guests:  map[peer.ID]*guest{}, addresses: map[netip.Prefix]*address{},
	}
	s.queue.most = int64(cfg.MaxQueueTotal)
	h.SetStreamHandler(Protocol, s.handle)
	return s
}

// Close ends all streams and returns when nothing of the server runs.
func (s *Server) Close() error {
	s.host.RemoveStreamHandler(Protocol)
	s.mu.Lock()
	s.closed = true
	for st := range s.streams {
		st.cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// handle serves one stream until it ends.
func (s *Server) handle(stream network.Stream) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	st := s.admit(stream, cancel)
	if st == nil {
		_ = stream.Reset()
		return
	}
	defer s.leave(st)
	// Reading and writing do not watch a context; a reset ends both.
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	defer stop()

	var work sync.WaitGroup
	for range readersPerStream {
		work.Go(func() { st.readChunks(ctx) })
	}
	var write sync.WaitGroup
	write.Go(func() {
		if err := st.writeAnswers(ctx); err != nil {
			s.cfg.Log.Debug("exchange stream ends", "peer", st.guest.id, "err", err)
			cancel()
		}
	})
	err := st.readRequests(ctx)
	st.queue.close()
	if err != nil && !errors.Is(err, io.EOF) {
		cancel()
	}
	work.Wait()
	st.queue.drop()
	close(st.out)
	write.Wait()
	s.end(st, err)
}

// end says goodbye to a stream whose reading ended with err, and cuts off a
// peer that broke the protocol.
func (s *Server) end(st *served, err error) {
	var bad *ProtocolError
	if !errors.As(err, &bad) {
		_ = st.stream.Close()
		return
	}
	s.count(st.guest, func(c *ServerStats) { c.Violations++ })
	s.offends(st.guest, bad.kind(), "cut off: "+bad.Reason)
	_ = st.stream.Reset()
	s.cutOff(st.guest)
}

// served is a stream that is served.
type served struct {
	server *Server
	guest  *guest
	at     *address
	stream network.Stream
	cancel context.CancelFunc
	queue  *serveQueue
	out    chan answer  // to write
	active atomic.Int64 // UnixNano of the last frame read or written
}

// readRequests reads frames until the stream ends, and queues what they ask
// for.
func (s *served) readRequests(ctx context.Context) error {
	r := bufio.NewReaderSize(s.stream, 16<<10)
	buf := make([]byte, maxSmallFrame)
	for {
		now := time.Now()
		s.active.Store(now.UnixNano())
		_ = s.stream.SetReadDeadline(now.Add(s.server.cfg.IdleTimeout))
		h, err := readHeader(r)
		if err != nil {
			return err
		}
		switch h.typ {
		case frameWant, frameCancel:
			if _, err = io.ReadFull(r, buf[:h.size]); err == nil {
				err = s.take(ctx, h.typ, buf[:h.size])
			}
		case frameChunk, frameMissing, frameRefused:
			err = violation("an answer (frame type 0x%02x) came to a server", h.typ)
		case frameType(Hello), frameType(Join), frameType(Have), frameType(Fetching), frameType(Leave), frameType(Members), frameType(Reading), frameType(Keep):
			if s.server.cfg.Heard != nil {
				err = s.hear(ctx, r, Kind(h.typ), h.size)
				break
			}
			fallthrough
		default: // of a later version
			if _, err = r.Discard(h.size); err == nil {
				err = s.payTalk(ctx, h.size)
			}
		}
		if err != nil {
			return err
		}
	}
}

// take queues a want, or takes cancelled requests out of the queue, and has
// answered what cannot or need not be served.
func (s *served) take(ctx context.Context, typ frameType, payload []byte) error {
	var reply []byte
	var idle int // requests that cost the peer nothing
	if typ == frameCancel {
		ids, err := parseIDs(payload)
		if err != nil {
			return err
		}
		if gone := s.queue.cancel(ids); len(gone) > 0 {
			reply = appendRefused(nil, refusedCancelled, gone...)
		}
		idle = len(ids)
	} else {
		w, err := parseWant(payload)
		if err != nil {
			return err
		}
		if refused := s.queue.push(w); len(refused) > 0 {
			s.server.count(s.guest, func(c *ServerStats) { c.Refused += uint64(len(refused)) })
			s.server.offends(s.guest, offence.Wants, "asks for more chunks at a time than are queued, refused as busy")
			reply = appendRefused(nil, refusedBusy, refused...)
			idle = len(refused)
		}
	}
	if len(reply) > 0 {
		select {
		case s.out <- answer{frame: reply}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.payEmpty(ctx, idle)
}

// payEmpty counts n requests answered without a chunk and waits while there
// were too many of them.
func (s *served) payEmpty(ctx context.Context, n int) error {
	wait := s.empty(n)
	if wait == 0 {
		return nil
	}
	s.server.offends(s.guest, offence.Wants, "asks, or others at its address do, mostly for what is not to be had, read slowly")
	return pause(ctx, wait)
}

// empty counts n requests answered without a chunk and returns how long to
// wait before more are read.
func (s *served) empty(n int) time.Duration {
	now := time.Now()
	return max(s.guest.empty.add(n, now), s.at.empty.add(n, now))
}
