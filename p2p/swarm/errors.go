package swarm

import (
	"fmt"
	"strings"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

// NotFoundError says that nobody gave a chunk in time. It matches
// chunk.ErrNotFound.
type NotFoundError struct {
	ID    chunk.ID
	Asked []AskedPeer // in the order of their last answers
}

// AskedPeer is a peer that was asked in vain.
type AskedPeer struct {
	Peer   peer.ID
	Answer string // what it answered, or what went wrong
}

func (e *NotFoundError) Error() string {
	if len(e.Asked) == 0 {
		return fmt.Sprintf("chunk %s not found: no peer is known to have it", e.ID)
	}
	answers := make([]string, len(e.Asked))
	for i, a := range e.Asked {
		answers[i] = fmt.Sprintf("%s: %s", a.Peer, a.Answer)
	}
	return fmt.Sprintf("chunk %s not found, %d peers asked: %s", e.ID, len(e.Asked), strings.Join(answers, "; "))
}

// Is makes the error match chunk.ErrNotFound.
func (e *NotFoundError) Is(target error) bool { return target == chunk.ErrNotFound }
