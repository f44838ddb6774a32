package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p"
)

const (
	announceBatch = 4096            // IDs handed to the host at a time
	announceRetry = 5 * time.Second // wait when the host has too many waiting
	maxHeldBack   = 1 << 17         // 4 MiB
)

// announcer keeps announced what the store holds: roots first, at the start
// everything, then what the store says came and went. It holds no list of its
// own; when the host takes no more, everything is looked through again.
type announcer struct {
	host  announcing
	log   *slog.Logger
	again atomic.Bool   // something was not taken
	wake  chan struct{} // says that again is set

	mu       sync.Mutex // also keeps what is told to host in order
	fetches  int        // under way
	heldBack []chunk.ID // came meanwhile and not yet announced, at most maxHeldBack
}

// announcing is the part of p2p.Host that is needed here. Announce never
// blocks; its error is p2p.ErrBacklog.
type announcing interface {
	Announce(ids ...chunk.ID) error
	StopAnnouncing(ids ...chunk.ID) error
}

// held is where the announcer looks everything through.
type held interface {
	Iterate(ctx context.Context, fn func(id chunk.ID, packedSize int) error) error
}

func newAnnouncer(host announcing, log *slog.Logger) *announcer {
	return &announcer{host: host, log: log, wake: make(chan struct{}, 1)}
}

// came is called by the store for each new chunk. It does not block.
func (a *announcer) came(id chunk.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fetches == 0 {
		a.announce(id)
		return
	}
	if a.heldBack = append(a.heldBack, id); len(a.heldBack) >= maxHeldBack {
		a.announceHeldBack()
	}
}

// holdBack lets new chunks wait until release is called, so that a fetch does
// not share the processor and the link with their announcements. Whoever wants
// the same flist finds this node by its root, and then learns of each chunk as
// it comes. If the process ends before, the next one announces everything.
func (a *announcer) holdBack() (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fetches++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.fetches--; a.fetches == 0 {
			a.announceHeldBack()
		}
	}
}

func (a *announcer) announceHeldBack() {
	a.announce(a.heldBack...)
	a.heldBack = nil
}

func (a *announcer) announce(ids ...chunk.ID) {
	if len(ids) > 0 && a.host.Announce(ids...) != nil {
		a.later()
	}
}

// went is called by the store for each chunk it no longer has.
func (a *announcer) went(id chunk.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heldBack = slices.DeleteFunc(a.heldBack, func(b chunk.ID) bool { return b == id })
	if err := a.host.StopAnnouncing(id); err != nil {
		a.log.Debug("chunk stays announced until its record expires", "chunk", id, "err", err)
	}
}

func (a *announcer) later() {
	a.again.Store(true)
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run announces everything held, roots first, and again what was not taken,
// until ctx ends.
func (a *announcer) run(ctx context.Context, store held, roots func() ([]chunk.ID, error)) error {
	if err := a.all(ctx, store, roots); err != nil && ctx.Err() == nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		}
		if !wait(ctx, announceRetry) {
			return nil
		}
		if !a.again.Swap(false) {
			continue
		}
		if err := a.all(ctx, store, roots); err != nil && ctx.Err() == nil {
			a.log.Error("announcing everything again", "err", err)
		}
	}
}

func (a *announcer) all(ctx context.Context, store held, roots func() ([]chunk.ID, error)) error {
	first, err := roots()
	if err != nil {
		return err
	}
	if err := a.hand(ctx, first); err != nil {
		return err
	}
	batch := make([]chunk.ID, 0, announceBatch)
	err = store.Iterate(ctx, func(id chunk.ID, _ int) error {
		if batch = append(batch, id); len(batch) < announceBatch {
			return nil
		}
		err := a.hand(ctx, batch)
		batch = batch[:0]
		return err
	})
	if err != nil {
		return fmt.Errorf("announce what is held: %w", err)
	}
	return a.hand(ctx, batch)
}

// hand gives ids to the host, waiting while it has too many.
func (a *announcer) hand(ctx context.Context, ids []chunk.ID) error {
	if len(ids) == 0 {
		return nil
	}
	for {
		err := a.host.Announce(ids...)
		if !errors.Is(err, p2p.ErrBacklog) {
			return err
		}
		if !wait(ctx, announceRetry) {
			return context.Cause(ctx)
		}
	}
}

// wait reports false if ctx ended before d was over.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
