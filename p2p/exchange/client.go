package exchange

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
)

// ClientConfig bounds a Client. A zero field takes its default.
type ClientConfig struct {
	Window       int           // 8 MiB: estimated bytes asked for and not yet here, per stream
	MaxRequests  int           // 1000 requests in flight per stream
	DialTimeout  time.Duration // 10 s to connect and open a stream
	StallTimeout time.Duration // 10 s without a byte while answers are due
	IdleTimeout  time.Duration // 2 min without a request closes a stream
	Offences     *offence.Book // notes what peers do that they should not; nil: one of the client's own
	Log          *slog.Logger  // discards when nil
}

func (c *ClientConfig) setDefaults() {
	setDefault(&c.Window, 8<<20)
	setDefault(&c.MaxRequests, 1000)
	setDefault(&c.DialTimeout, 10*time.Second)
	setDefault(&c.StallTimeout, 10*time.Second)
	setDefault(&c.IdleTimeout, 2*time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Offences == nil {
		c.Offences = offence.NewBook(c.Log)
	}
}

// A session with a peer has two streams, so that what somebody waits for never
// stands behind the bytes of a bulk transfer.
const (
	laneExpress = iota // Waiting, Readahead
	laneBulk           // Prefetch, Replication
	numLanes
)

func laneOf(c Class) int {
	if c <= Readahead {
		return laneExpress
	}
	return laneBulk
}

type laneKey struct {
	peer peer.ID
	lane int
}

// Client asks other nodes for chunks over a few long-lived streams per peer.
type Client struct {
	host host.Host
	cfg  ClientConfig

	mu     sync.Mutex
	closed bool
	lanes  map[laneKey]*lane
	talks  map[peer.ID]*talk
	wg     sync.WaitGroup

	discarded atomic.Uint64 // bytes
}

// NewClient returns a client that opens its streams through h, which must know
// the addresses of the peers asked or be able to find them. End it with Close.
func NewClient(h host.Host, cfg ClientConfig) *Client {
	cfg.setDefaults()
	return &Client{host: h, cfg: cfg, lanes: map[laneKey]*lane{}, talks: map[peer.ID]*talk{}}
}

// Get asks p for one chunk. Calls that run at the same time share streams and
// frames; among those not yet sent the most urgent class goes first.
//
// The content is not verified: Packed.Open does that. It is the caller's own,
// who may give it back with chunk.Recycle. Errors match ErrMissing
// (and so chunk.ErrNotFound), ErrBusy, ErrRefused, ErrStalled, ErrClosed, a
// *ProtocolError, ctx's error, or say why p cannot be reached.
func (c *Client) Get(ctx context.Context, p peer.ID, id chunk.ID, class Class) (chunk.Packed, error) {
	r := &request{chunk: id, class: min(class, Replication), done: make(chan result, 1)}
	l, err := c.submit(p, r)
	if err != nil {
		return chunk.Packed{}, err
	}
	select {
	case res := <-r.done:
		return res.packed, res.err
	case <-ctx.Done():
		l.cancel(r)
		return chunk.Packed{}, ctx.Err()
	}
}

// Arrived returns when the last byte came from p in answer to requests of a
// class; the zero time if none came on the stream there is.
func (c *Client) Arrived(p peer.ID, class Class) time.Time {
	c.mu.Lock()
	l := c.lanes[laneKey{p, laneOf(class)}]
	c.mu.Unlock()
	if l == nil {
		return time.Time{}
	}
	if at := l.arrived.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Discarded returns how many bytes of chunks came whose requests had been
// given up, as packed.
func (c *Client) Discarded() uint64 { return c.discarded.Load() }

// submit gives r to the lane for it, which it starts if need be.
func (c *Client) submit(p peer.ID, r *request) (*lane, error) {
	key := laneKey{p, laneOf(r.class)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if l := c.lanes[key]; l != nil && l.push(r) {
		return l, nil
	}
	ctx, stop := context.WithCancel(context.Background())
	l := newLane(c, key, stop)
	l.push(r)
	c.lanes[key] = l
	c.host.ConnManager().Protect(p, connTag)
	c.wg.Go(func() {
		err := l.run(ctx)
		c.forget(l)
		var bad *ProtocolError
		switch {
		case errors.As(err, &bad):
			c.cfg.Offences.Note(p, bad.kind(), "cut off: "+bad.Reason)
			_ = c.host.Network().ClosePeer(p)
		case errors.Is(err, ErrStalled):
			c.cfg.Offences.Note(p, offence.Stalled, "owes answers and sends nothing")
		}
	})
	return l, nil
}

// connTag keeps the connection manager from closing connections in use.
const connTag = "flistnode-exchange"

func (c *Client) forget(l *lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lanes[l.key] != l {
		return // another has taken its place
	}
	delete(c.lanes, l.key)
	for lane := range numLanes {
		if c.lanes[laneKey{l.key.peer, lane}] != nil {
			return
		}
	}
	c.host.ConnManager().Unprotect(l.key.peer, connTag)
}

// Close ends all streams, fails what is in flight with ErrClosed, and returns
// when nothing of the client runs.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	lanes := make([]*lane, 0, len(c.lanes))
	for _, l := range c.lanes {
		lanes = append(lanes, l)
	}
	talks := slices.Collect(maps.Keys(c.talks))
	c.mu.Unlock()
	for _, p := range talks {
		c.Hush(p)
	}
	for _, l := range lanes {
		l.fail(ErrClosed)
	}
	c.wg.Wait()
	return nil
}

// request is one chunk wanted from one peer. Exactly one result is put into
// done, unless the request is cancelled.
type request struct {
	chunk chunk.ID
	class Class
	done  chan result

	// Guarded by lane.mu.
	id        uint32 // once sent
	sent      bool
	cancelled bool
}

type result struct {
	packed chunk.Packed
	err    error
}

// answerError turns a refusal into an error.
func (r refusal) err() error {
	switch r {
	case refusedBusy:
		return ErrBusy
	case refusedCancelled:
		return errCancelled
	}
	return ErrRefused
}

// wrapDial says that p could not be reached.
func wrapDial(p peer.ID, err error) error {
	return fmt.Errorf("open stream to %s: %w", p, err)
}
