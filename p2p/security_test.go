package p2p

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// countedConn counts writes, and fails them once it is told to.
type countedConn struct {
	net.Conn
	mu     sync.Mutex
	writes int
	broken error
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.writes++
	broken := c.broken
	c.mu.Unlock()
	if broken != nil {
		return 0, broken
	}
	return c.Conn.Write(b)
}

func (c *countedConn) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes
}

// secured returns the two ends of a connection over loopback, and the plain
// one below the first.
func secured(t *testing.T) (a, b sec.SecureConn, below *countedConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	below = &countedConn{Conn: out}
	ours, _ := tlsOf(t)
	others, id := tlsOf(t)
	accepted := make(chan error, 1)
	go func() {
		var err error
		b, err = others.SecureInbound(context.Background(), in, "")
		accepted <- err
	}()
	a, err = ours.SecureOutbound(context.Background(), below, id)
	if err = errors.Join(err, <-accepted); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b, below
}

func tlsOf(t *testing.T) (*tlsTransport, peer.ID) {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := newTLS(libp2ptls.ID, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr, id
}

func TestTheRecordsOfOneWriteAreWrittenTogether(t *testing.T) {
	a, b, below := secured(t)
	sent := make([]byte, 3<<20+5)
	_, _ = rand.Read(sent)
	got := make([]byte, len(sent))
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(b, got)
		read <- err
	}()
	const frame = 64 << 10
	before, writes := below.count(), 0
	for rest := sent; len(rest) > 0; writes++ {
		n, err := a.Write(rest[:min(frame, len(rest))])
		if err != nil || n != min(frame, len(rest)) {
			t.Fatalf("Write = %d, %v", n, err)
		}
		rest = rest[n:]
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Error("other bytes arrived than were sent")
	}
	// TLS begins with records of one packet each, more than are gathered.
	if n := below.count() - before; n > writes+8 {
		t.Errorf("%d writes of %d bytes became %d", writes, frame, n)
	}
}

func TestAWriteLargerThanIsGatheredArrivesInOrder(t *testing.T) {
	a, b, _ := secured(t)
	sent := make([]byte, 5*maxGathered+77)
	_, _ = rand.Read(sent)
	go func() { _, _ = a.Write(sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(b, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Error("other bytes arrived than were sent")
	}
}

func TestAfterAFailedWriteAllFail(t *testing.T) {
	a, _, below := secured(t)
	broken := errors.New("cable cut")
	below.mu.Lock()
	below.broken = broken
	below.mu.Unlock()
	if _, err := a.Write([]byte("x")); !errors.Is(err, broken) {
		t.Errorf("first Write: %v", err)
	}
	below.mu.Lock()
	below.broken = nil
	below.mu.Unlock()
	if _, err := a.Write([]byte("y")); err == nil {
		t.Error("a Write after a failed one succeeded, with bytes missing before its own")
	}
}
