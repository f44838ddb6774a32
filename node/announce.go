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

// announcer keeps announced what the store holds: the roots of flists first,
// and each chunk if the mode says so; at the start everything, then what the
// store says came and went. It holds no list of its own; when the host takes no
// more, everything is looked through again.
type announcer struct {
	host  announcing
	log   *slog.Logger
	mode  announceMode
	held  atomic.Int64  // chunks in the store
	again atomic.Bool   // something was not taken
	wake  chan struct{} // says that again is set

	mu       sync.Mutex // also keeps what is told to host in order
	chunks   bool       // each chunk is announced
	busy     int        // fetches and packs under way
	heldBack []chunk.ID // came meanwhile and not yet announced, at most maxHeldBack
}

// announcing is the part of p2p.Host that is needed here. None of it blocks;
// an error is p2p.ErrBacklog.
type announcing interface {
	announcingChunks
	AnnounceRoots(ids ...chunk.ID) error
	Replicas() int
}

type announcingChunks interface {
	Announce(ids ...chunk.ID) error
	StopAnnouncing(ids ...chunk.ID) error
	StopAnnouncingChunks()
}

// held is where the announcer looks everything through.
type held interface {
	Iterate(ctx context.Context, fn func(id chunk.ID, packedSize int) error) error
}

func newAnnouncer(host announcing, setting string, log *slog.Logger) *announcer {
	a := &announcer{host: host, mode: announceMode{setting: setting}, log: log, wake: make(chan struct{}, 1)}
	a.chunks = a.mode.begin(0)
	return a
}

// came is called by the store for each new chunk. It does not block.
func (a *announcer) came(id chunk.ID) {
	a.held.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.chunks {
		return
	}
	if a.busy == 0 {
		a.announce(id)
		return
	}
	if a.heldBack = append(a.heldBack, id); len(a.heldBack) >= maxHeldBack {
		a.announceHeldBack()
	}
}

// rootCame announces the root block of an flist that is held from now on.
func (a *announcer) rootCame(id chunk.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.host.AnnounceRoots(id) != nil {
		a.later()
	}
}

// rootWent notes that the flist is no longer held. Its root block is a chunk
// like others, as long as the store has it.
func (a *announcer) rootWent(id chunk.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stop(id)
	if a.chunks {
		a.announce(id)
	}
}

// holdBack lets new chunks wait until release is called, so that a fetch or a
// pack does not share the processor and the link with their announcements. Whoever wants
// the same flist finds this node by its root, and then learns of each chunk as
// it comes. If the process ends before, the next one announces everything.
func (a *announcer) holdBack() (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.busy--; a.busy == 0 {
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
	a.held.Add(-1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stop(id)
	a.heldBack = slices.DeleteFunc(a.heldBack, func(b chunk.ID) bool { return b == id })
}

func (a *announcer) stop(id chunk.ID) {
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

// run announces what is held, roots first, and again what was not taken, until
// ctx ends.
func (a *announcer) run(ctx context.Context, store held, roots func() ([]chunk.ID, error)) error {
	if err := a.begin(ctx, store, roots); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	look := time.NewTicker(modeLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			if !a.changed(time.Now()) {
				continue
			}
		case <-a.wake:
			if !wait(ctx, announceRetry) {
				return nil
			}
			if !a.again.Swap(false) {
				continue
			}
		}
		if err := a.all(ctx, store, roots); err != nil && ctx.Err() == nil {
			a.log.Error("announcing everything again", "err", err)
		}
	}
}

// begin announces the roots, counts the chunks to choose a mode, and announces
// them too if that is it.
func (a *announcer) begin(ctx context.Context, store held, roots func() ([]chunk.ID, error)) error {
	if err := a.allRoots(ctx, roots); err != nil {
		return err
	}
	n := int64(0)
	err := store.Iterate(ctx, func(chunk.ID, int) error {
		n++
		return nil
	})
	if err != nil {
		return fmt.Errorf("count what is held: %w", err)
	}
	a.held.Store(n)
	a.mu.Lock()
	a.chunks = a.mode.begin(int(n))
	a.mu.Unlock()
	return a.allChunks(ctx, store)
}

// changed looks whether the mode changes, and reports whether everything is to
// be announced because of that.
func (a *announcer) changed(now time.Time) bool {
	replicas := a.host.Replicas()
	chunks := a.mode.look(int(a.held.Load()), replicas, now)
	a.mu.Lock()
	defer a.mu.Unlock()
	if chunks == a.chunks {
		return false
	}
	a.chunks = chunks
	a.log.Info("announcing changes", "mode", modeName(chunks), "chunks", a.held.Load(), "replicas", replicas)
	if !chunks {
		a.heldBack = nil
		a.host.StopAnnouncingChunks()
	}
	return chunks
}

// inForce returns the mode announcing is in now.
func (a *announcer) inForce() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return modeName(a.chunks)
}

func (a *announcer) all(ctx context.Context, store held, roots func() ([]chunk.ID, error)) error {
	if err := a.allRoots(ctx, roots); err != nil {
		return err
	}
	return a.allChunks(ctx, store)
}

func (a *announcer) allRoots(ctx context.Context, roots func() ([]chunk.ID, error)) error {
	ids, err := roots()
	if err != nil {
		return err
	}
	return a.hand(ctx, a.host.AnnounceRoots, ids)
}

// allChunks announces every chunk if the mode says so.
func (a *announcer) allChunks(ctx context.Context, store held) error {
	a.mu.Lock()
	chunks := a.chunks
	a.mu.Unlock()
	if !chunks {
		return nil
	}
	batch := make([]chunk.ID, 0, announceBatch)
	err := store.Iterate(ctx, func(id chunk.ID, _ int) error {
		if batch = append(batch, id); len(batch) < announceBatch {
			return nil
		}
		err := a.hand(ctx, a.host.Announce, batch)
		batch = batch[:0]
		return err
	})
	if err != nil {
		return fmt.Errorf("announce what is held: %w", err)
	}
	return a.hand(ctx, a.host.Announce, batch)
}

// hand gives ids to the host, waiting while it has too many.
func (a *announcer) hand(ctx context.Context, announce func(...chunk.ID) error, ids []chunk.ID) error {
	if len(ids) == 0 {
		return nil
	}
	for {
		err := announce(ids...)
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
