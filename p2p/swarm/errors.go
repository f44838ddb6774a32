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
	// Unreached are peers to begin with that could not be asked, and why.
	Unreached []AskedPeer
}

// AskedPeer is a peer that was asked in vain.
type AskedPeer struct {
	Peer   peer.ID
	Answer string // what it answered, or what went wrong
}

func (s *Swarm) notFound(id chunk.ID, asked []AskedPeer) *NotFoundError {
	e := &NotFoundError{ID: id, Asked: asked}
	if s.cfg.Unreached != nil {
		e.Unreached = s.cfg.Unreached()
	}
	return e
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("chunk %s not found: no peer is known to have it", e.ID)
	if len(e.Asked) > 0 {
		text = fmt.Sprintf("chunk %s not found, %d peers asked: %s", e.ID, len(e.Asked), answers(e.Asked))
	}
	if len(e.Unreached) > 0 {
		text += fmt.Sprintf("; %d peers to begin with cannot be reached: %s", len(e.Unreached), answers(e.Unreached))
	}
	return text
}

func answers(peers []AskedPeer) string {
	texts := make([]string, len(peers))
	for i, a := range peers {
		texts[i] = fmt.Sprintf("%s: %s", a.Peer, a.Answer)
	}
	return strings.Join(texts, "; ")
}

// Is makes the error match chunk.ErrNotFound.
func (e *NotFoundError) Is(target error) bool { return target == chunk.ErrNotFound }
