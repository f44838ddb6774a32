// Package hint passes a small note about an flist from one node to another:
// the profile, which says in what order its chunks are first touched.
//
// It neither looks for peers nor understands notes. Whoever asks must bear any
// bytes as an answer. One stream carries one question: the 32 bytes of the
// flist's root; the answer is a length in four bytes, little endian, at most
// MaxBytes, 0 if there is no note, and the note.
//
// Server and Ask may be used from many goroutines at once.
package hint

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Protocol is the libp2p protocol ID.
const Protocol protocol.ID = "/flistnode/profile/1"

// MaxBytes bounds a note.
const MaxBytes = 64 << 10

const (
	maxStreams = 64 // questions answered at a time; more are refused
	maxPerPeer = 4  // of them, of one peer
	timeout    = 10 * time.Second
)

// Server answers questions of other nodes.
type Server struct {
	host   host.Host
	lookup func(root chunk.ID) []byte
	log    *slog.Logger

	mu     sync.Mutex
	closed bool
	now    map[network.Stream]bool
	work   sync.WaitGroup
}

// NewServer starts to answer questions that reach h with what lookup returns:
// at most MaxBytes, nothing if there is no note. End it with Close.
func NewServer(h host.Host, lookup func(root chunk.ID) []byte, log *slog.Logger) *Server {
	s := &Server{host: h, lookup: lookup, log: log, now: map[network.Stream]bool{}}
	h.SetStreamHandler(Protocol, s.handle)
	return s
}

// Close ends all streams and returns when nothing of the server runs.
func (s *Server) Close() error {
	s.host.RemoveStreamHandler(Protocol)
	s.mu.Lock()
	s.closed = true
	for st := range s.now {
		_ = st.Reset()
	}
	s.mu.Unlock()
	s.work.Wait()
	return nil
}

func (s *Server) handle(st network.Stream) {
	s.mu.Lock()
	if s.closed || len(s.now) >= maxStreams || s.of(st.Conn().RemotePeer()) >= maxPerPeer {
		s.mu.Unlock()
		_ = st.Reset()
		return
	}
	s.now[st] = true
	s.work.Add(1)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.now, st)
		s.mu.Unlock()
		s.work.Done()
	}()
	if err := s.answer(st); err != nil {
		s.log.Debug("question about an flist not answered", "peer", st.Conn().RemotePeer(), "err", err)
		_ = st.Reset()
		return
	}
	_ = st.Close()
}

// of returns how many questions of p are being answered. s.mu is held.
func (s *Server) of(p peer.ID) (n int) {
	for st := range s.now {
		if st.Conn().RemotePeer() == p {
			n++
		}
	}
	return n
}

func (s *Server) answer(st network.Stream) error {
	if err := st.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	var root chunk.ID
	if _, err := io.ReadFull(st, root[:]); err != nil {
		return err
	}
	note := s.lookup(root)
	if len(note) > MaxBytes {
		note = nil
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(note)), uint32(len(note)))
	_, err := st.Write(append(b, note...))
	return err
}

// Ask asks a peer for its note about the flist root; nil if it has none.
func Ask(ctx context.Context, h host.Host, p peer.ID, root chunk.ID) ([]byte, error) {
	note, err := ask(ctx, h, p, root)
	if err != nil {
		return nil, fmt.Errorf("ask %s about flist %s: %w", p, root, err)
	}
	return note, nil
}

func ask(ctx context.Context, h host.Host, p peer.ID, root chunk.ID) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	st, err := h.NewStream(ctx, p, Protocol)
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.Reset() }() // after Close it does nothing
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	if _, err := st.Write(root[:]); err != nil {
		return nil, err
	}
	if err := st.CloseWrite(); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(st, size[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > MaxBytes {
		return nil, fmt.Errorf("answer of %d bytes is longer than %d", n, MaxBytes)
	}
	if n == 0 {
		return nil, nil
	}
	note := make([]byte, n)
	if _, err := io.ReadFull(st, note); err != nil {
		return nil, err
	}
	return note, nil
}
