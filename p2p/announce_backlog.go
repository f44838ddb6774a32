package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	mh "github.com/multiformats/go-multihash"
)

// put notes that chunks shall be announced, or no longer.
func (a *announcer) put(announce bool, ids []chunk.ID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.order)+len(ids) > maxBacklog {
		return ErrBacklog
	}
	for _, id := range ids {
		a.backlog[id] = announce
		if !announce {
			delete(a.roots, id)
		}
	}
	a.order = append(a.order, ids...)
	a.poke()
	return nil
}

// putRoots notes that the root blocks of flists shall be announced.
func (a *announcer) putRoots(ids []chunk.ID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.roots)+len(ids) > maxRoots {
		return ErrBacklog
	}
	for _, id := range ids {
		if _, known := a.roots[id]; !known {
			a.roots[id] = time.Time{}
		}
	}
	a.poke()
	return nil
}

// dropChunks notes that no chunk shall be announced of those put so far.
func (a *announcer) dropChunks() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.backlog)
	a.order, a.forget = nil, true
	a.poke()
}

func (a *announcer) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// keep moves a batch of the backlog into the keystore and reports whether there
// was one. It returns those keys that are new there and that the sweep has
// gone past.
func (a *announcer) keep(ctx context.Context) (kept bool, fresh []mh.Multihash, err error) {
	start, stop := a.take()
	if a.ownKept {
		for _, k := range start {
			if err := a.addOwn(ctx, k); err != nil {
				return true, nil, fmt.Errorf("record own key: %w", err)
			}
		}
	}
	if fresh, err = a.keys.Put(ctx, start...); err != nil {
		return true, nil, fmt.Errorf("keep keys to announce: %w", err)
	}
	fresh = slices.DeleteFunc(fresh, func(k mh.Multihash) bool { return !a.sweep.past(k) })
	if len(stop) == 0 {
		return len(start) > 0, fresh, nil
	}
	if a.provider != nil {
		err = errors.Join(a.provider.chunks.StopProviding(stop...), a.provider.roots.StopProviding(stop...))
	}
	if err = errors.Join(err, a.keys.Delete(ctx, stop...)); err != nil {
		return true, fresh, fmt.Errorf("drop keys to announce: %w", err)
	}
	return true, fresh, nil
}

// take removes up to announceBatch keys from the backlog, first come first.
func (a *announcer) take() (start, stop []mh.Multihash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.order), announceBatch)
	for _, id := range a.order[:n] {
		announce, ok := a.backlog[id]
		if !ok {
			continue // named twice
		}
		delete(a.backlog, id)
		if announce {
			start = append(start, id.Multihash())
		} else {
			stop = append(stop, id.Multihash())
		}
	}
	if a.order = a.order[n:]; len(a.order) == 0 {
		a.order = nil
	}
	return start, stop
}

// takeRoots returns the roots that are to be announced now.
func (a *announcer) takeRoots(now time.Time) (due []mh.Multihash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, at := range a.roots {
		if now.Sub(at) >= a.interval {
			due = append(due, id.Multihash())
			a.roots[id] = now
		}
	}
	return due
}

func (a *announcer) forgetChunks(ctx context.Context) error {
	a.mu.Lock()
	forget := a.forget
	a.forget = false
	a.mu.Unlock()
	if !forget {
		return nil
	}
	if a.provider != nil {
		a.provider.chunks.Clear()
	}
	if err := a.keys.Empty(ctx); err != nil {
		return fmt.Errorf("drop keys to announce: %w", err)
	}
	return nil
}
