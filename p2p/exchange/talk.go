package exchange

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Kind says what a Message is about. It is the type of its frame.
type Kind uint8

// The kinds of messages.
const (
	Hello    Kind = 0x10 // I am at Site ("" for none)
	Join     Kind = 0x11 // I share the flist Root of Chunks chunks, and hold those set in Have
	Have     Kind = 0x12 // I hold the chunks Index of Root too
	Fetching Kind = 0x13 // I am fetching the chunks Index of Root from who alone holds them
	Leave    Kind = 0x14 // I no longer share Root
	Members  Kind = 0x15 // Peers share Root too
	Reading  Kind = 0x16 // I fetch only what is read of Root: leave no chunks to me
	Keep     Kind = 0x17 // Copies of each chunk of Root are to be kept at the site; State is my part in it
)

// Bits of the State of a Keep message. Others are ignored.
const (
	KeepTakes    = 1 << iota // I take more chunks
	KeepMetadata             // I hold all metadata
	KeepLoads                // I am loading the flist, and may take chunks then
)

// Message is something a node tells a peer about an flist both may share. The
// fields used depend on Kind.
type Message struct {
	Kind   Kind
	Root   chunk.ID
	Chunks uint32    // of the flist's chunk table
	Have   []byte    // bit i%8 of byte i/8 stands for chunk i
	Index  []uint32  // into the chunk table
	Peers  []peer.ID // at most MaxMembers
	Site   string    // at most MaxSite bytes

	Version uint64 // of a wish for copies: the greatest is the newest
	Copies  uint8  // 0: no longer
	State   uint8
}

// Bounds of messages.
const (
	MaxTable   = 1 << 22 // chunks of an flist that is shared by bitmaps
	MaxIndexes = 4096    // in one message
	MaxMembers = 64
	MaxSite    = 64

	rootSize     = len(chunk.ID{})
	joinFixed    = rootSize + 4
	keepSize     = rootSize + 8 + 1 + 1
	maxPeerIDLen = 64
)

// messageBounds returns the least and the most bytes of payload of a kind.
func messageBounds(k Kind) (low, high int, ok bool) {
	switch k {
	case Hello:
		return 0, MaxSite, true
	case Join:
		return joinFixed, joinFixed + MaxTable/8, true
	case Have, Fetching:
		return rootSize + 4, rootSize + 4*MaxIndexes, true
	case Leave, Reading:
		return rootSize, rootSize, true
	case Members:
		return rootSize, rootSize + MaxMembers*(1+maxPeerIDLen), true
	case Keep:
		return keepSize, keepSize, true
	}
	return 0, 0, false
}

// appendTo appends the frame of m, which must be within the bounds.
func (m Message) appendTo(b []byte) []byte {
	start := len(b)
	b = appendHeader(b, frameType(m.Kind), 0)
	if m.Kind == Hello {
		b = append(b, m.Site...)
	} else {
		b = append(b, m.Root[:]...)
	}
	switch m.Kind {
	case Join:
		b = binary.LittleEndian.AppendUint32(b, m.Chunks)
		b = append(b, m.Have...)
	case Have, Fetching:
		for _, i := range m.Index {
			b = binary.LittleEndian.AppendUint32(b, i)
		}
	case Members:
		for _, p := range m.Peers {
			b = append(b, byte(len(p)))
			b = append(b, p...)
		}
	case Keep:
		b = binary.LittleEndian.AppendUint64(b, m.Version)
		b = append(b, m.Copies, m.State)
	}
	binary.LittleEndian.PutUint32(b[start+1:], uint32(len(b)-start-headerSize))
	return b
}

// parseMessage reads the payload of a message's frame. The result does not
// point into p.
func parseMessage(k Kind, p []byte) (Message, error) {
	m := Message{Kind: k}
	if k == Hello {
		m.Site = string(p)
		return m, nil
	}
	if len(p) < rootSize {
		return m, violation("message 0x%02x of %d bytes names no flist", k, len(p))
	}
	p = p[copy(m.Root[:], p):]
	switch k {
	case Join:
		return parseJoin(m, p)
	case Have, Fetching:
		var err error
		m.Index, err = parseIDs(p)
		return m, err
	case Keep:
		if len(p) != keepSize-rootSize {
			return m, violation("wish for copies of %d bytes", len(p))
		}
		m.Version, m.Copies, m.State = binary.LittleEndian.Uint64(p), p[8], p[9]
	case Members:
		for len(p) > 0 {
			n := int(p[0])
			if n == 0 || n > maxPeerIDLen || len(p) < 1+n || len(m.Peers) >= MaxMembers {
				return m, violation("list of members is malformed")
			}
			id, err := peer.IDFromBytes(p[1 : 1+n])
			if err != nil {
				return m, violation("list of members holds no peer ID: %v", err)
			}
			m.Peers = append(m.Peers, id)
			p = p[1+n:]
		}
	}
	return m, nil
}

func parseJoin(m Message, p []byte) (Message, error) {
	if len(p) < 4 {
		return m, violation("join of %d bytes has no length of the chunk table", len(p))
	}
	m.Chunks = binary.LittleEndian.Uint32(p)
	p = p[4:]
	if m.Chunks > MaxTable || len(p) != (int(m.Chunks)+7)/8 {
		return m, violation("bitmap of %d bytes for a table of %d chunks", len(p), m.Chunks)
	}
	if r := m.Chunks % 8; r > 0 && p[len(p)-1]>>r != 0 {
		return m, violation("bitmap has bits beyond its %d chunks", m.Chunks)
	}
	m.Have = append([]byte(nil), p...)
	return m, nil
}

const (
	// messageCost and helloCost are what a message costs in talk besides its
	// bytes, for the work it makes.
	messageCost = 512
	helloCost   = 64 << 10
)

// hear reads the payload of a message, of size bytes, and hands it on. A peer
// that tells too much is read no faster than it may tell.
func (s *served) hear(ctx context.Context, r *bufio.Reader, k Kind, size int) error {
	low, high, _ := messageBounds(k)
	if size < low || size > high {
		return badLength(uint8(k), uint64(size), low, high)
	}
	buf := make([]byte, size)
	if _, err := io.ReadFull(r, buf); err != nil {
		return err
	}
	m, err := parseMessage(k, buf)
	if err != nil {
		return err
	}
	s.server.cfg.Heard(s.guest.id, m)
	if k == Hello {
		size += helloCost
	}
	return s.payTalk(ctx, size)
}

// payTalk waits while the peer told more than it may.
func (s *served) payTalk(ctx context.Context, n int) error {
	now := time.Now()
	wait := max(s.guest.told.add(n+messageCost, now), s.at.told.add(n+messageCost, now))
	if wait == 0 {
		return nil
	}
	s.server.offends(s.guest, offence.Talk, "tells, or others at its address do, more than is listened to, read slowly")
	return pause(ctx, wait)
}

// talk is the stream over which a client tells a peer things.
type talk struct {
	users int        // calls of Tell that run; Client.mu guards it
	mu    sync.Mutex // held while writing
	st    network.Stream
}

// Tell sends messages to p, in order, over a stream of their own. Calls for
// the same peer follow one another. After an error p may have got any part of
// what was said before on the stream, and must be told all again.
func (c *Client) Tell(ctx context.Context, p peer.ID, messages ...Message) error {
	t, err := c.talkTo(p)
	if err != nil {
		return err
	}
	defer c.endTalk(p, t)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.st == nil {
		dial, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
		defer cancel()
		if t.st, err = c.host.NewStream(dial, p, Protocol); err != nil {
			t.st = nil
			return wrapDial(p, err)
		}
	}
	st := t.st // which is no longer t.st when ctx ends after a failure
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	for _, m := range messages {
		_ = st.SetWriteDeadline(time.Now().Add(c.cfg.StallTimeout))
		if _, err := st.Write(m.appendTo(nil)); err != nil {
			_ = st.Reset()
			t.st = nil
			return stalled(err)
		}
	}
	return nil
}

// Hush closes the stream over which p is told things.
func (c *Client) Hush(p peer.ID) {
	c.mu.Lock()
	t := c.talks[p]
	delete(c.talks, p)
	c.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.st != nil {
		_ = t.st.Close()
		t.st = nil
	}
}

func (c *Client) talkTo(p peer.ID) (*talk, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	t := c.talks[p]
	if t == nil {
		t = &talk{}
		c.talks[p] = t
	}
	t.users++
	return t, nil
}

// endTalk forgets a peer to whom there is no stream and nobody tells anything.
func (c *Client) endTalk(p peer.ID, t *talk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.users--; t.users == 0 && c.talks[p] == t && t.st == nil {
		delete(c.talks, p)
	}
}
