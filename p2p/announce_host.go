package p2p

import (
	"context"
	"fmt"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Announce makes this node announce that it holds chunks, now and again and
// again until StopAnnouncing. It only notes the wish: it never waits for the
// network and works without any peer. The error is ErrBacklog or nil.
//
// Nothing announced is remembered over a restart: announce what is held after
// each start.
func (h *Host) Announce(ids ...chunk.ID) error { return h.announcer.put(true, ids) }

// AnnounceRoots is Announce for the root blocks of flists, which are announced
// before any chunk.
func (h *Host) AnnounceRoots(ids ...chunk.ID) error { return h.announcer.putRoots(ids) }

// StopAnnouncing ends what Announce and AnnounceRoots began. Records that
// others keep expire after 48 hours; until then they lead to an answer "don't
// have".
func (h *Host) StopAnnouncing(ids ...chunk.ID) error { return h.announcer.put(false, ids) }

// StopAnnouncingChunks ends what all calls of Announce so far began, but not
// what AnnounceRoots did.
func (h *Host) StopAnnouncingChunks() { h.announcer.dropChunks() }

// Replicas is how many peers a key is announced to in the network as it is: all
// there are, up to 20.
func (h *Host) Replicas() int { return min(h.dht.RoutingTable().Size(), bucketSize) }

// AnnounceStats says how far announcing has come.
type AnnounceStats struct {
	Online  bool      // there is somebody to announce to
	Roots   int       // that are kept announced
	Keys    int       // chunks that are kept announced
	Backlog int       // keys noted and not yet handed on
	Pending int       // keys whose announcement waits or is being sent
	Oldest  time.Time // of the announcements of all chunks; zero if some were never announced

	Messages uint64 // records sent to peers since the start
	Bytes    uint64 // of these, without what the transport adds
}

// AnnounceStats returns the present figures.
func (h *Host) AnnounceStats(ctx context.Context) (AnnounceStats, error) {
	a := h.announcer
	keys, err := a.keys.Size(ctx)
	if err != nil {
		return AnnounceStats{}, fmt.Errorf("count announced keys: %w", err)
	}
	s := AnnounceStats{Keys: keys, Messages: a.sender.counted.messages.Load(), Bytes: a.sender.counted.bytes.Load()}
	a.mu.Lock()
	s.Roots, s.Backlog, s.Oldest = len(a.roots), len(a.backlog), a.oldest
	for _, at := range a.roots {
		if at.IsZero() {
			s.Backlog++
		}
	}
	p := a.provider
	a.mu.Unlock()
	if p == nil {
		return s, nil
	}
	s.Online = true
	s.Pending, _, err = p.pending(ctx)
	return s, err
}
