package exchange

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

func sampleMessages() []Message {
	root := chunk.Sum([]byte("root"))
	return []Message{
		{Kind: Hello},
		{Kind: Hello, Site: "berlin"},
		{Kind: Join, Root: root, Chunks: 11, Have: []byte{0xff, 0x05}},
		{Kind: Have, Root: root, Index: []uint32{0, 10}},
		{Kind: Fetching, Root: root, Index: []uint32{3}},
		{Kind: Leave, Root: root},
		{Kind: Reading, Root: root},
		{Kind: Members, Root: root, Peers: []peer.ID{"\x00\x01a", "\x00\x02bc"}},
		{Kind: Keep, Root: root, Version: 1 << 40, Copies: 3, State: KeepTakes | KeepLoads},
	}
}

func TestAMessageComesAsItWasSent(t *testing.T) {
	for _, m := range sampleMessages() {
		frame := m.appendTo(nil)
		h, err := readHeader(bytes.NewReader(frame))
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseMessage(Kind(h.typ), frame[headerSize:])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("kind 0x%02x: %s", m.Kind, diff)
		}
	}
}

func TestAMalformedMessageIsAViolation(t *testing.T) {
	root := make([]byte, rootSize)
	for name, c := range map[string]struct {
		kind    Kind
		payload []byte
	}{
		"join without table length":   {Join, root},
		"join with too short bitmap":  {Join, append(bytes.Clone(root), 9, 0, 0, 0, 0xff)},
		"join with bits beyond table": {Join, append(bytes.Clone(root), 3, 0, 0, 0, 0xff)},
		"join of a huge table":        {Join, append(bytes.Clone(root), 0xff, 0xff, 0xff, 0xff)},
		"have with half an index":     {Have, append(bytes.Clone(root), 1, 2)},
		"members cut short":           {Members, append(bytes.Clone(root), 9, 1)},
		"leave without flist":         {Leave, root[:7]},
		"reading without flist":       {Reading, root[:7]},
		"wish for copies cut short":   {Keep, append(bytes.Clone(root), 1, 2, 3)},
		"wish for copies too long":    {Keep, append(bytes.Clone(root), make([]byte, 11)...)},
	} {
		var bad *ProtocolError
		if _, err := parseMessage(c.kind, c.payload); !errors.As(err, &bad) {
			t.Errorf("%s: got %v, want a violation", name, err)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, m := range sampleMessages() {
		f.Add(byte(m.Kind), m.appendTo(nil)[headerSize:])
	}
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		low, high, ok := messageBounds(Kind(kind))
		if !ok || len(payload) < low || len(payload) > high {
			return
		}
		m, err := parseMessage(Kind(kind), payload)
		if err != nil {
			return
		}
		if again := m.appendTo(nil)[headerSize:]; !bytes.Equal(again, payload) {
			t.Errorf("kind 0x%02x: %x was written again as %x", kind, payload, again)
		}
	})
}

func TestTellingMayBeCancelledWhileItsStreamFails(t *testing.T) {
	a, b := pair(t)
	b.SetStreamHandler(Protocol, func(s network.Stream) { _ = s.Reset() })
	c := NewClient(a, ClientConfig{})
	defer c.Close()
	failed := 0
	for range 300 {
		ctx, cancel := context.WithCancel(ctxOf(t))
		done := make(chan struct{})
		go func() {
			defer close(done)
			cancel()
		}()
		if c.Tell(ctx, b.ID(), sampleMessages()...) != nil {
			failed++
		}
		<-done
	}
	if failed == 0 {
		t.Error("nothing failed")
	}
}
