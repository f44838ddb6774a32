package exchange

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/limit"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"
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
	MaxStreams        int                        // 512, of all peers together
	MaxQueue          int                        // 1024 requests waiting on a stream; one more is answered "busy"
	MaxReads          int                        // 32 reads of the store at a time
	MaxBytes          int64                      // 256 MiB of chunks read but not yet written
	WriteTimeout      time.Duration              // 20 s for a write of at most 128 KiB
	IdleTimeout       time.Duration              // 5 min without a frame ends a stream
	BanTime           time.Duration              // 1 min without service for a peer that broke the protocol
	Upload            *limit.Limit               // of chunks sent; nil: none
	Heard             func(p peer.ID, m Message) // takes what peers tell, quickly; nil skips it
	Recycle           func([]byte)               // takes back the bytes of a chunk of the Store after they were sent; may be nil
	Log               *slog.Logger               // discards when nil
}

func (c *ServerConfig) setDefaults() {
	setDefault(&c.MaxStreamsPerPeer, 8)
	setDefault(&c.MaxStreams, 512)
	setDefault(&c.MaxQueue, 1024)
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
	reads *semaphore.Weighted // reads of the store that run
	bytes *semaphore.Weighted // bytes read and not yet written

	mu      sync.Mutex
	closed  bool
	streams map[network.Stream]context.CancelFunc
	peers   map[peer.ID]*peerServed // all ever served, at most maxServedPeers
	total   ServerStats
	wg      sync.WaitGroup
}

// NewServer starts to answer requests that reach h. End it with Close.
func NewServer(h host.Host, store Store, cfg ServerConfig) *Server {
	cfg.setDefaults()
	s := &Server{
		host: h, store: store, cfg: cfg,
		reads:   semaphore.NewWeighted(int64(cfg.MaxReads)),
		bytes:   semaphore.NewWeighted(cfg.MaxBytes),
		streams: map[network.Stream]context.CancelFunc{},
		peers:   map[peer.ID]*peerServed{},
	}
	h.SetStreamHandler(Protocol, s.handle)
	return s
}

// Close ends all streams and returns when nothing of the server runs.
func (s *Server) Close() error {
	s.host.RemoveStreamHandler(Protocol)
	s.mu.Lock()
	s.closed = true
	for _, cancel := range s.streams {
		cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// handle serves one stream until it ends.
func (s *Server) handle(st network.Stream) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !s.admit(st, cancel) {
		_ = st.Reset()
		return
	}
	defer s.leave(st)
	// Reading and writing do not watch a context; a reset ends both.
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()

	q := newServeQueue(s.cfg.MaxQueue)
	out := make(chan answer, 2)
	var work sync.WaitGroup
	for range readersPerStream {
		work.Go(func() { s.readChunks(ctx, st.Conn().RemotePeer(), q, out) })
	}
	var write sync.WaitGroup
	write.Go(func() {
		if err := s.writeAnswers(ctx, st, out); err != nil {
			s.cfg.Log.Debug("exchange stream ends", "peer", st.Conn().RemotePeer(), "err", err)
			cancel()
		}
	})
	err := s.readRequests(ctx, st, q, out)
	q.close()
	if err != nil && !errors.Is(err, io.EOF) {
		cancel()
	}
	work.Wait()
	close(out)
	write.Wait()
	s.end(st, err)
}

// end says goodbye to a stream whose reading ended with err, and cuts off a
// peer that broke the protocol.
func (s *Server) end(st network.Stream, err error) {
	var bad *ProtocolError
	if !errors.As(err, &bad) {
		_ = st.Close()
		return
	}
	p := st.Conn().RemotePeer()
	s.count(p, func(c *ServerStats) { c.Violations++ })
	s.mu.Lock()
	s.served(p).bannedUntil = time.Now().Add(s.cfg.BanTime)
	s.mu.Unlock()
	s.cfg.Log.Warn("peer cut off", "peer", p, "err", err)
	_ = st.Reset()
	_ = s.host.Network().ClosePeer(p)
}

// admit registers a stream, unless there are too many or the peer is banned.
func (s *Server) admit(st network.Stream, cancel context.CancelFunc) bool {
	p := st.Conn().RemotePeer()
	s.mu.Lock()
	defer s.mu.Unlock()
	served := s.served(p)
	if s.closed || len(s.streams) >= s.cfg.MaxStreams || served.streams >= s.cfg.MaxStreamsPerPeer ||
		time.Now().Before(served.bannedUntil) {
		return false
	}
	s.streams[st] = cancel
	served.streams++
	s.wg.Add(1)
	return true
}

func (s *Server) leave(st network.Stream) {
	s.mu.Lock()
	delete(s.streams, st)
	s.served(st.Conn().RemotePeer()).streams--
	s.mu.Unlock()
	s.wg.Done()
}

// readRequests reads frames until the stream ends, and puts what they ask for
// into q.
func (s *Server) readRequests(ctx context.Context, st network.Stream, q *serveQueue, out chan<- answer) error {
	r := bufio.NewReaderSize(st, 16<<10)
	buf := make([]byte, maxSmallFrame)
	told := listener{heard: s.cfg.Heard, peer: st.Conn().RemotePeer(), last: time.Now()}
	for {
		_ = st.SetReadDeadline(time.Now().Add(s.cfg.IdleTimeout))
		h, err := readHeader(r)
		if err != nil {
			return err
		}
		var reply []byte
		switch h.typ {
		case frameWant, frameCancel:
			if _, err := io.ReadFull(r, buf[:h.size]); err != nil {
				return err
			}
			if reply, err = s.take(st.Conn().RemotePeer(), h.typ, buf[:h.size], q); err != nil {
				return err
			}
		case frameChunk, frameMissing, frameRefused:
			return violation("an answer (frame type 0x%02x) came to a server", h.typ)
		case frameType(Hello), frameType(Join), frameType(Have), frameType(Fetching), frameType(Leave), frameType(Members), frameType(Reading), frameType(Keep):
			if s.cfg.Heard != nil {
				err = told.read(ctx, r, Kind(h.typ), h.size)
			} else {
				_, err = r.Discard(h.size)
			}
			if err != nil {
				return err
			}
		default: // of a later version
			if _, err := r.Discard(h.size); err != nil {
				return err
			}
		}
		if len(reply) == 0 {
			continue
		}
		select {
		case out <- answer{frame: reply}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take puts a want into q or takes cancelled requests out of it. It returns
// the frame that answers what cannot or need not be served.
func (s *Server) take(p peer.ID, typ frameType, payload []byte, q *serveQueue) ([]byte, error) {
	if typ == frameCancel {
		ids, err := parseIDs(payload)
		if err != nil {
			return nil, err
		}
		if gone := q.cancel(ids); len(gone) > 0 {
			return appendRefused(nil, refusedCancelled, gone...), nil
		}
		return nil, nil
	}
	w, err := parseWant(payload)
	if err != nil {
		return nil, err
	}
	refused := q.push(w)
	if len(refused) == 0 {
		return nil, nil
	}
	s.count(p, func(c *ServerStats) { c.Refused += uint64(len(refused)) })
	return appendRefused(nil, refusedBusy, refused...), nil
}
