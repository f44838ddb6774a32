package swarm

import (
	"context"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/peer"
)

// attendEvery is how often Attend looks for others.
const attendEvery = time.Minute

// Attend lets this node take part in a shared flist (Share) without fetching
// it: the peers it is connected to, and the flist's providers as they are
// found, are told what it holds, and those who share the flist too answer with
// what they hold. It returns when ctx has ended; the flist stays shared.
func (s *Swarm) Attend(ctx context.Context, root chunk.ID) {
	sh := s.attends(root, 1)
	if sh == nil {
		return
	}
	defer s.attends(root, -1)
	news := make(chan struct{}, 1)
	defer s.providers.unwatch(root, news)
	tick := time.NewTicker(attendEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		s.lookAround(sh, news)
		select {
		case <-news:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// attends counts those who attend root by n. The result is nil if root is not
// shared.
func (s *Swarm) attends(root chunk.ID, n int) *share {
	s.shares.mu.Lock()
	defer s.shares.mu.Unlock()
	sh := s.shares.all[root]
	if sh != nil {
		sh.attends += n
		sh.used = time.Now()
	}
	return sh
}

// lookAround tells connected peers and providers of the flist that this node
// shares it; those who share it too will answer with what they hold. It pokes
// news when more providers are known.
func (s *Swarm) lookAround(sh *share, news chan struct{}) {
	var peers []peer.ID
	if s.cfg.Connected != nil {
		peers = s.cfg.Connected()
	}
	found, _ := s.providers.find(sh.table.Root, s.cfg.ProviderTTL, news)
	peers = append(append([]peer.ID(nil), found...), peers...)
	s.shares.mu.Lock()
	defer s.shares.mu.Unlock()
	for _, p := range peers {
		s.tell(sh, p)
	}
}

// Unshare ends what Share began, and tells those who were told. It does
// nothing while the flist is fetched or attended.
func (s *Swarm) Unshare(root chunk.ID) {
	s.shares.mu.Lock()
	defer s.shares.mu.Unlock()
	if sh := s.shares.all[root]; sh != nil && !sh.needed() {
		s.unshare(sh)
	}
}

// needed reports whether somebody here fetches or attends the flist.
func (sh *share) needed() bool { return len(sh.jobs) > 0 || sh.attends > 0 }

func (s *Swarm) unshare(sh *share) {
	for p := range sh.told {
		s.talkers.leave(p, sh.table.Root)
	}
	delete(s.shares.all, sh.table.Root)
}
