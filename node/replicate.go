package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/swarm"
)

// replicatePoll is how often a caller of Replicate is told how far it is.
const replicatePoll = 100 * time.Millisecond

// wished returns what the swarm calls with wishes of peers: nil if this node
// takes no part.
func (n *Node) wished() func(peer.ID, swarm.Keep) {
	if !n.cfg.KeepCopies {
		return nil
	}
	return n.wishes.hear
}

// Replicate implements api.Replicator.
func (n *Node) Replicate(ctx context.Context, req api.ReplicateRequest, progress func(api.Replication)) (api.Replication, error) {
	none := api.Replication{}
	if !n.cfg.KeepCopies {
		return none, fmt.Errorf("%w: this node ends with its command and keeps no copies", api.ErrNoDaemon)
	}
	if req.Copies < 0 || req.Copies > api.MaxCopies {
		return none, fmt.Errorf("%w: %d copies: want 1 to %d", api.ErrInvalid, req.Copies, api.MaxCopies)
	}
	im, err := n.load(ctx, req.FList)
	if err != nil {
		return none, err
	}
	root := im.CID()
	im.Close()
	if cur, _ := n.wishes.get(rootID(root)); req.Copies == 0 {
		req.Copies = cmp.Or(cur.Copies, api.DefaultCopies)
	}
	if err := n.wish(root, req.Copies); err != nil {
		return none, err
	}
	tick := time.NewTicker(replicatePoll)
	defer tick.Stop()
	for {
		res, over, err := n.replication(root, req.Copies)
		if err != nil || over || req.NoWait {
			return res, err
		}
		if progress != nil && res.Known {
			progress(res)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return res, context.Cause(ctx)
		}
	}
}

// wish makes it a wish of this node's user that so many copies of root be kept.
func (n *Node) wish(root cid.Cid, copies int) error {
	w, id := n.wishes, rootID(root)
	w.edit.Lock()
	defer w.edit.Unlock()
	cur, known := w.get(id)
	if known && cur.Here && cur.Copies == copies {
		return nil
	}
	if !cur.Here && w.active(true) >= maxWishes {
		return fmt.Errorf("%w: copies of %d flists are kept already: end one (replicate --stop)", api.ErrBusy, maxWishes)
	}
	rec := wishRecord{Version: nextVersion(cur), Copies: copies, Here: true, Since: time.Now().UTC().Truncate(time.Second)}
	if known && cur.Copies == copies {
		rec.Version = cur.Version // others know it
	}
	if err := n.setWish(root, rec); err != nil {
		return err
	}
	n.log.Info("copies are wished", "flist", root, "copies", copies)
	return n.store.Sync()
}

// nextVersion is the version of a wish that replaces cur.
func nextVersion(cur wishRecord) uint64 { return max(uint64(time.Now().UnixMilli()), cur.Version+1) }

// StopReplicating implements api.Replicator.
func (n *Node) StopReplicating(_ context.Context, name string) error {
	root, err := parseCID(name)
	if err != nil {
		return err
	}
	w := n.wishes
	w.edit.Lock()
	defer w.edit.Unlock()
	cur, _ := w.get(rootID(root))
	if cur.Copies == 0 {
		return fmt.Errorf("no copies of flist %s are wished: %w", root, chunk.ErrNotFound)
	}
	if err := n.setWish(root, wishRecord{Version: nextVersion(cur), Since: time.Now().UTC().Truncate(time.Second)}); err != nil {
		return err
	}
	n.log.Info("copies are no longer wished", "flist", root)
	return n.store.Sync()
}

// Replications implements api.Replicator. Those of this node's user come
// first, then in the order of their CIDs.
func (n *Node) Replications(context.Context) ([]api.Replication, error) {
	n.wishes.mu.Lock()
	var roots []cid.Cid
	for _, wi := range n.wishes.all {
		if wi.rec.Copies > 0 {
			roots = append(roots, wi.root)
		}
	}
	n.wishes.mu.Unlock()
	all := []api.Replication{}
	for _, root := range roots {
		if r, _, err := n.replication(root, 0); err == nil { // else it was taken back
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b api.Replication) int {
		if a.Here != b.Here {
			if a.Here {
				return -1
			}
			return 1
		}
		return strings.Compare(a.CID, b.CID)
	})
	return all, nil
}

// replication returns how far the wish for root is, and whether it is over for
// who waits for so many copies: they are there, or nothing is happening any
// more. The error says that the wish was changed.
func (n *Node) replication(root cid.Cid, copies int) (res api.Replication, over bool, err error) {
	w := n.wishes
	w.mu.Lock()
	wi := w.all[rootID(root)]
	var rec wishRecord
	var rep *replica
	if wi != nil {
		rec, rep = wi.rec, wi.rep
	}
	w.mu.Unlock()
	if rec.Copies == 0 || copies > 0 && rec.Copies != copies {
		return res, false, fmt.Errorf("%w: the wish for copies of flist %s was changed meanwhile", api.ErrBusy, root)
	}
	res = api.Replication{CID: root.String(), Copies: rec.Copies, Here: rec.Here, Since: rec.Since}
	if pin, err := n.pinOf(root); err == nil {
		res.Name = pin.Name
	}
	switch {
	case rep != nil:
		over = rep.report(&res, time.Now())
	case !n.cfg.KeepCopies:
		res.Problem = "no daemon runs"
	case !rec.Here && n.cfg.ReplicateMax == 0:
		res.Problem = "this node keeps nothing for others"
	}
	return res, over, nil
}

// report adds to res how far it is. It reports whether there is nothing to wait
// for.
func (r *replica) report(res *api.Replication, now time.Time) (over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	idle := now.Sub(r.progress)
	if r.sizes == nil || r.census == nil || r.counted != res.Copies {
		if r.failed != nil {
			res.Problem = r.failed.Error()
		}
		return r.failed != nil && idle > r.n.cfg.FetchTimeout
	}
	c, others := r.counts, uint64(r.others)
	res.Known, res.Bytes = true, r.bytes
	res.Nodes, res.Takers = c.Nodes, c.Takers
	res.Chunks = uint64(len(r.sizes)) + others
	res.Enough, res.Fewer, res.None, res.Lost = uint64(c.Enough), uint64(c.Fewer), uint64(c.None), uint64(r.lost)
	res.Made = uint64(c.Made) + others*uint64(min(c.Metadata, res.Copies))
	blocked := uint64(c.Blocked)
	switch {
	case c.Metadata >= res.Copies:
		res.Enough += others
	case c.Metadata > 0:
		res.Fewer += others
	default:
		res.None += others
	}
	if c.Metadata < res.Copies && c.Metadata == c.Nodes {
		blocked += others
	}
	if res.OK() {
		return true
	}
	res.Problem = lacking(*res, blocked)
	if blocked == res.Chunks-res.Enough && c.Loading == 0 && idle >= r.n.wishes.settle {
		return true
	}
	if idle < r.n.cfg.FetchTimeout {
		return false
	}
	if res.Problem == "" {
		res.Problem = fmt.Sprintf("no copy came for %s", r.n.cfg.FetchTimeout)
	}
	return true
}

// lacking says why there will be too few copies, nothing if there may be
// enough.
func lacking(r api.Replication, blocked uint64) string {
	var why []string
	if r.Nodes < r.Copies {
		why = append(why, fmt.Sprintf("%d copies need %d nodes; nodes of the site that take part: %d", r.Copies, r.Copies, r.Nodes))
	} else if blocked > 0 {
		why = append(why, fmt.Sprintf("%d chunks: no node that lacks them takes more (%d of %d nodes of the site take more)",
			blocked, r.Takers, r.Nodes))
	}
	if r.Lost > 0 {
		why = append(why, fmt.Sprintf("%d chunks were found nowhere", r.Lost))
	}
	return strings.Join(why, "; ")
}
