// Package exchange moves chunks between two nodes: the frames on the wire, the
// server that answers from the store, and the client that keeps many requests
// in flight to a peer.
//
// It does not choose peers, does not try again, and does not check that a
// chunk's bytes are the ones its ID names: that is the swarm's part. The server
// answers only from what its Store holds and never causes a fetch.
//
// The wire format is specified in docs/protocol.md. Server and Client may be
// used from many goroutines at once.
package exchange

import (
	"errors"
	"fmt"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Protocol is the libp2p protocol ID of the exchange.
const Protocol protocol.ID = "/flistnode/exchange/1"

// Class says how urgent a request is. A lower value goes first.
type Class uint8

// The classes, most urgent first.
const (
	Waiting     Class = iota // somebody's read(2) waits for it
	Readahead                // somebody will probably read it next
	Prefetch                 // wanted soon, nobody waits
	Replication              // kept for others
	numClasses
)

func (c Class) String() string {
	switch c {
	case Waiting:
		return "waiting"
	case Readahead:
		return "readahead"
	case Prefetch:
		return "prefetch"
	case Replication:
		return "replication"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// What an answer can be, other than a chunk.
var (
	// ErrMissing says that the peer does not have the chunk. It matches
	// chunk.ErrNotFound.
	ErrMissing = fmt.Errorf("peer does not have it: %w", chunk.ErrNotFound)
	// ErrBusy says that the peer has too much to do; ask again a little later.
	ErrBusy = errors.New("peer is busy")
	// ErrRefused says that the peer could not read the chunk from its store.
	ErrRefused = errors.New("peer could not read it")
	// ErrStalled says that the peer had unanswered requests and sent nothing
	// for the stall time-out.
	ErrStalled = errors.New("peer stalled")
	// ErrClosed says that the client was closed.
	ErrClosed = errors.New("exchange client is closed")
	// errCancelled answers a request that was given up.
	errCancelled = errors.New("request was cancelled")
)

// ProtocolError says that a peer sent what the protocol does not allow. The
// connection to it is closed.
type ProtocolError struct {
	Reason    string
	Oversized bool // a frame was announced that is longer than any of its type
}

func (e *ProtocolError) Error() string { return "protocol violation: " + e.Reason }

func violation(format string, args ...any) error {
	return &ProtocolError{Reason: fmt.Sprintf(format, args...)}
}

// badLength returns the violation of a frame whose payload has a length its
// type does not allow.
func badLength(typ uint8, size uint64, low, high int) error {
	reason := fmt.Sprintf("frame of type 0x%02x has %d bytes, allowed are %d to %d", typ, size, low, high)
	return &ProtocolError{Reason: reason, Oversized: size > uint64(high)}
}

// kind returns the offence a violation is.
func (e *ProtocolError) kind() offence.Kind {
	if e.Oversized {
		return offence.Oversized
	}
	return offence.Malformed
}
