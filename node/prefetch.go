package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/profile"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/swarm"
)

const (
	// prefetchInFlight bounds the chunks a prefetch waits for at a time: what
	// is in flight stands in the links before a read that somebody waits for.
	prefetchInFlight = 16
	prefetchBatch    = 1024    // chunks looked up in the store at a time
	prefetchSpare    = 1 << 30 // bytes of the disk a prefetch leaves free

	// localReadAhead is the kernel's readahead once the whole image is here.
	// Before, the default keeps the kernel from moving much for nothing.
	localReadAhead = 1 << 20
)

// checkPrefetch returns the mode a request asks for.
func checkPrefetch(mode string) (string, error) {
	switch mode {
	case "":
		return api.PrefetchProfile, nil
	case api.PrefetchNone, api.PrefetchProfile, api.PrefetchAll:
		return mode, nil
	}
	return "", fmt.Errorf("%w: prefetch %q: want none, profile or all", api.ErrInvalid, mode)
}

// follow does what goes on beside a mount until ctx ends: it brings chunks
// before they are asked for, records which are, and trades with those who use
// the flist too. It begins when the mount answers, and looks only once for what
// is here: that is 50 ms for 10,000 chunks, and somebody waits for the mount.
func (n *Node) follow(ctx context.Context, m *mounted, im *flist.Image, mode string) {
	var g errgroup.Group
	g.Go(func() error {
		return flist.Guard(func() error {
			n.record(ctx, m, im)
			return nil
		})
	})
	g.Go(func() error {
		select {
		case <-m.Ready():
		case <-ctx.Done():
			return nil
		}
		t, held, err := n.table(ctx, im)
		if err != nil {
			if ctx.Err() == nil {
				n.log.Warn("peers are not told what is held of an flist, and nothing is prefetched", "flist", im.CID(), "err", err)
			}
			return nil
		}
		g.Go(func() error {
			n.attend(ctx, t, held)
			return nil
		})
		return flist.Guard(func() error {
			n.prefetch(ctx, m, im, absent(len(t.IDs), held), mode)
			return nil
		})
	})
	if err := g.Wait(); err != nil { // what else fails they log
		n.log.Warn("nothing is recorded or prefetched any more", "flist", im.CID(), "err", err)
	}
}

// absent returns the numbers below chunks that are not in held, which is
// ascending.
func absent(chunks int, held []uint32) profile.Profile {
	out := make(profile.Profile, 0, chunks-len(held))
	for i := range uint32(chunks) {
		if len(held) > 0 && held[0] == i {
			held = held[1:]
			continue
		}
		out = append(out, i)
	}
	return out
}

// prefetch brings what mode says of the chunks that are missing. When the whole
// image is here, it lets the kernel read far ahead.
func (n *Node) prefetch(ctx context.Context, m *mounted, im *flist.Image, missing profile.Profile, mode string) {
	var err error
	if len(missing) > 0 && mode != api.PrefetchNone {
		var order profile.Profile
		order, err = n.missing(ctx, im, n.findProfile(ctx, im))
		if err == nil {
			m.replaying.Store(true)
			err = n.bring(ctx, im, order, n.aheadOf(im.CID()))
			m.replaying.Store(false)
		}
	}
	if err == nil && len(missing) > 0 && mode == api.PrefetchAll {
		if err = n.bring(ctx, im, missing, n.bulk(im.CID()).once()); err == nil {
			missing = nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		n.log.Warn("prefetch ended early", "flist", im.CID(), "err", err)
		return
	case len(missing) > 0:
		return
	}
	select {
	case <-m.Ready():
		if err := m.SetReadAhead(localReadAhead); err != nil {
			n.log.Debug("readahead stays as it is", "err", err)
		}
	case <-ctx.Done():
	}
}

// missing returns the chunks of p that the store does not hold.
func (n *Node) missing(ctx context.Context, im *flist.Image, p profile.Profile) (profile.Profile, error) {
	var out profile.Profile
	ids := make([]chunk.ID, 0, prefetchBatch)
	for len(p) > 0 {
		batch := p[:min(len(p), prefetchBatch)]
		p = p[len(batch):]
		ids = ids[:0]
		for _, i := range batch {
			id, _ := im.Chunk(i)
			ids = append(ids, id)
		}
		held, err := n.store.HasMany(ctx, ids)
		if err != nil {
			return nil, err
		}
		for j, i := range batch {
			if !held[j] {
				out = append(out, i)
			}
		}
	}
	return out, nil
}

// errFull ends a prefetch.
var errFull = errors.New("little room is left on the disk")

// bring gets chunks in their order from src, many at a time, so that they are
// in the store. Chunks nobody has are left out.
func (n *Node) bring(ctx context.Context, im *flist.Image, order profile.Profile, src source) error {
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(prefetchInFlight)
	for k, i := range order {
		if ctx.Err() != nil {
			break
		}
		if k%prefetchBatch == 0 && !n.roomToPrefetch() {
			return errors.Join(errFull, g.Wait())
		}
		id, _ := im.Chunk(i)
		g.Go(func() error {
			_, err := src.Get(ctx, id)
			if errors.Is(err, chunk.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	err := g.Wait()
	if err == nil && len(order) > 0 {
		n.log.Info("prefetched", "flist", im.CID(), "chunks", len(order), "took", time.Since(began))
	}
	return err
}

func (n *Node) roomToPrefetch() bool {
	var fs unix.Statfs_t
	return unix.Statfs(n.store.Dir(), &fs) == nil && fs.Bavail*uint64(fs.Bsize) > prefetchSpare
}

// aheadOf is the source of what a mount will probably read next. The class is
// served on the same streams as waiting reads, after them, so that a read that
// catches up with it need not ask again.
func (n *Node) aheadOf(root cid.Cid) source {
	return source{n, want{root: rootID(root), class: swarm.Readahead, patience: n.cfg.ReadTimeout}}
}

// reader is the chunk.Source of a mount's readahead: aheadOf, but only what is
// here while a profile is replayed, which knows better what comes next.
type reader struct {
	source
	replaying *atomic.Bool
}

var _ chunk.Source = reader{}

// Get implements chunk.Source.
func (r reader) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	if r.replaying.Load() {
		return nearby{r.n}.Get(ctx, id)
	}
	return r.source.Get(ctx, id)
}
