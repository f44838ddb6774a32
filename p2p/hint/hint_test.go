package hint_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/hint"
)

// pair returns two connected hosts.
func pair(t *testing.T) (a, b host.Host) {
	t.Helper()
	m, err := mocknet.FullMeshConnected(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m.Hosts()[0], m.Hosts()[1]
}

func TestNoteIsAnswered(t *testing.T) {
	a, b := pair(t)
	root, note := chunk.Sum([]byte("root")), bytes.Repeat([]byte("x"), hint.MaxBytes)
	s := hint.NewServer(b, func(id chunk.ID) []byte {
		if id == root {
			return note
		}
		return nil
	}, slog.New(slog.DiscardHandler))
	got, err := hint.Ask(t.Context(), a, b.ID(), root)
	if err != nil || !bytes.Equal(got, note) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(note))
	}
	got, err = hint.Ask(t.Context(), a, b.ID(), chunk.Sum([]byte("other")))
	if err != nil || got != nil {
		t.Errorf("a note about an unknown flist: %d bytes, %v", len(got), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := hint.Ask(t.Context(), a, b.ID(), root); err == nil {
		t.Error("a closed server answered")
	}
}

func TestLongOrMissingAnswersAreErrors(t *testing.T) {
	for name, answer := range map[string][]byte{
		"too long":  {0xff, 0xff, 0xff, 0xff, 1},
		"cut short": {4, 0, 0, 0, 1},
		"nothing":   {},
	} {
		a, b := pair(t)
		b.SetStreamHandler(hint.Protocol, func(st network.Stream) {
			_, _ = st.Write(answer)
			_ = st.Close()
		})
		if got, err := hint.Ask(t.Context(), a, b.ID(), chunk.ID{}); err == nil {
			t.Errorf("%s: got %d bytes and no error", name, len(got))
		}
	}
}

func TestSilentPeerIsNotWaitedForLongerThanTheContext(t *testing.T) {
	a, b := pair(t)
	asked := make(chan struct{})
	b.SetStreamHandler(hint.Protocol, func(network.Stream) { close(asked) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := hint.Ask(ctx, a, b.ID(), chunk.ID{}); err == nil {
		t.Error("no error")
	}
}

func TestOnePeersOpenQuestionsLeaveRoomForAnother(t *testing.T) {
	m, err := mocknet.FullMeshConnected(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	greedy, server, other := m.Hosts()[0], m.Hosts()[1], m.Hosts()[2]
	s := hint.NewServer(server, func(chunk.ID) []byte { return []byte("note") }, slog.New(slog.DiscardHandler))
	ended := make(chan struct{}, 100)
	for range cap(ended) {
		st, err := greedy.NewStream(t.Context(), server.ID(), hint.Protocol)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = st.Write([]byte{1}) // and no more
		go func() {
			_, _ = st.Read(make([]byte, 1))
			ended <- struct{}{}
		}()
	}
	for range cap(ended) - 4 { // the others wait for their questions
		<-ended
	}
	if note, err := hint.Ask(t.Context(), other, server.ID(), chunk.ID{}); err != nil || len(note) == 0 {
		t.Errorf("another peer: %q, %v", note, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
