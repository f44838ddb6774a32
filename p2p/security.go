package p2p

import (
	"context"
	"net"
	"sync"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// tlsTransport is libp2p's TLS 1.3, with the records of one Write handed to
// the kernel together: TLS writes each of its records, at most 16 KiB, by
// itself, and a system call and the wake-up of the receiver cost about as much
// as encrypting one.
type tlsTransport struct{ *libp2ptls.Transport }

var _ sec.SecureTransport = (*tlsTransport)(nil)

func newTLS(id protocol.ID, key crypto.PrivKey, muxers []upgrader.StreamMuxer) (*tlsTransport, error) {
	t, err := libp2ptls.New(id, key, muxers)
	return &tlsTransport{t}, err
}

func (t *tlsTransport) SecureInbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	records := &recordConn{Conn: insecure}
	c, err := t.Transport.SecureInbound(ctx, records, p)
	return newTLSConn(c, records, err)
}

func (t *tlsTransport) SecureOutbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	records := &recordConn{Conn: insecure}
	c, err := t.Transport.SecureOutbound(ctx, records, p)
	return newTLSConn(c, records, err)
}

// tlsConn is the plain side of a connection: what is written here is
// encrypted.
type tlsConn struct {
	sec.SecureConn
	records *recordConn
	mu      sync.Mutex // held by who writes
}

func newTLSConn(c sec.SecureConn, records *recordConn, err error) (sec.SecureConn, error) {
	if err != nil {
		return nil, err
	}
	return &tlsConn{SecureConn: c, records: records}, nil
}

func (c *tlsConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records.gather()
	n, err := c.SecureConn.Write(b)
	if ferr := c.records.flush(); err == nil && ferr != nil {
		return 0, ferr
	}
	return n, err
}

// recordConn is the encrypted side: TLS writes its records here.
type recordConn struct {
	net.Conn

	mu        sync.Mutex
	gathering bool
	buf       []byte // records not yet written; nil while there are none
	err       error  // of a write, after which the connection is of no use
}

// maxGathered bounds what is kept back, in bytes: about the records of one frame
// of the multiplexer.
const maxGathered = 96 << 10

// gathered keeps buffers of connections that write nothing for those that do.
var gathered = sync.Pool{New: func() any { return new([maxGathered]byte) }}

// gather keeps back what is written from now on, until flush.
func (c *recordConn) gather() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gathering = true
}

// Write writes b, or keeps a copy back.
func (c *recordConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.gathering && len(c.buf)+len(b) <= maxGathered {
		if c.buf == nil {
			c.buf = gathered.Get().(*[maxGathered]byte)[:0]
		}
		c.buf = append(c.buf, b...)
		return len(b), nil
	}
	if err := c.writeGathered(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	c.err = err
	return n, err
}

// flush writes what was kept back.
func (c *recordConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gathering = false
	if c.err != nil {
		return c.err
	}
	return c.writeGathered()
}

func (c *recordConn) writeGathered() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, c.err = c.Conn.Write(c.buf)
	gathered.Put((*[maxGathered]byte)(c.buf[:maxGathered]))
	c.buf = nil
	return c.err
}
