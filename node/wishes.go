package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/swarm"
)

// Namespaces of the store's records: the wishes for copies, by the CID of the
// flist, and, under one key, how many bytes are kept for others.
const (
	wishRecords = "replicate"
	keptRecords = "replicated"
	keptKey     = "bytes"
)

const (
	maxWishes = 32 // of others, and as many of this node's user
	maxEnded  = 64 // wishes taken back that are remembered
	// maxAhead is how much newer than now a wish may claim to be, so that none
	// is made that nobody can take back.
	maxAhead = 24 * time.Hour
	// wishTick is how often connected peers are looked at, wishMin the least
	// time between two looks.
	wishTick = time.Second
	wishMin  = 50 * time.Millisecond
	// Bounds of wishes.settle: peers must have had time to answer.
	minSettle = 2 * time.Second
	maxSettle = 10 * time.Second
	// tablesKept bounds the tables of all flists kept for others, in bytes.
	tablesKept = 256 << 20
)

// wishRecord is a wish that copies of an flist be kept at the site. Of two, the
// one with the greater version counts, and of the same version the one that
// wants more copies.
type wishRecord struct {
	Version uint64    `json:"version"` // milliseconds since 1970, or one more than what it replaces
	Copies  int       `json:"copies"`  // 0: it was taken back
	Here    bool      `json:"here,omitempty"`
	Since   time.Time `json:"since"`
}

// wish is a wish and the work on it.
type wish struct {
	root cid.Cid
	rec  wishRecord
	rep  *replica // nil while nobody works on it
}

// wishes are the wishes this node knows.
type wishes struct {
	wake   chan struct{} // one token when there is something to do
	grace  time.Duration // how long a node that is gone counts
	settle time.Duration // how long nothing must happen before a wish that nobody can fulfil is called so

	edit sync.Mutex // held while a wish is changed, here and on disk

	mu     sync.Mutex // never held over I/O: the swarm waits for it
	all    map[chunk.ID]*wish
	heard  map[chunk.ID]swarm.Keep // not yet looked at
	kept   int64                   // bytes kept for others, or about to be
	saved  int64                   // the same on disk
	tables uint64                  // bytes of tables loaded for others
}

// loadWishes reads the wishes that the last daemon knew.
func loadWishes(store *chunkstore.Store, grace time.Duration) (*wishes, error) {
	w := &wishes{wake: make(chan struct{}, 1), grace: grace, settle: min(max(grace/3, minSettle), maxSettle),
		all: map[chunk.ID]*wish{}, heard: map[chunk.ID]swarm.Keep{}}
	err := store.Records(wishRecords, func(key string, value []byte) error {
		root, err := cid.Decode(key)
		var rec wishRecord
		if err == nil {
			err = json.Unmarshal(value, &rec)
		}
		if err != nil {
			return fmt.Errorf("read wish for copies of flist %q: %w", key, err)
		}
		w.all[rootID(root)] = &wish{root: root, rec: rec}
		return nil
	})
	if err != nil {
		return nil, err
	}
	b, err := store.Record(keptRecords, keptKey)
	if errors.Is(err, chunkstore.ErrNoRecord) {
		return w, nil
	}
	if err == nil {
		w.kept, err = strconv.ParseInt(string(b), 10, 64)
	}
	w.saved = w.kept
	return w, err
}

// hear takes what a peer of the site tells of a wish. It does not block.
func (w *wishes) hear(_ peer.ID, k swarm.Keep) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cur := w.all[k.Root]; cur != nil && !newer(k, cur.rec) {
		return
	}
	if old, ok := w.heard[k.Root]; ok && !newer(k, wishRecord{Version: old.Version, Copies: old.Copies}) ||
		!ok && len(w.heard) >= maxWishes {
		return
	}
	w.heard[k.Root] = k
	w.poke()
}

func newer(k swarm.Keep, than wishRecord) bool {
	return k.Version > than.Version || k.Version == than.Version && k.Copies > than.Copies
}

func (w *wishes) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// keepCopies works on the wishes until ctx ends.
func (n *Node) keepCopies(ctx context.Context) {
	var work sync.WaitGroup
	defer n.saveKept()
	defer work.Wait()
	tick := time.NewTicker(wishTick)
	defer tick.Stop()
	for wait(ctx, wishMin) {
		n.heed()
		n.swarm.Keep(n.reconcile(ctx, &work))
		n.saveKept()
		select {
		case <-n.wishes.wake:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// heed looks at what was heard.
func (n *Node) heed() {
	w := n.wishes
	w.edit.Lock()
	defer w.edit.Unlock()
	w.mu.Lock()
	heard := w.heard
	w.heard = map[chunk.ID]swarm.Keep{}
	w.mu.Unlock()
	for id, k := range heard {
		root := cid.NewCidV1(cid.DagCBOR, id.Multihash())
		if why := n.mayHeed(id, k); why != "" {
			n.log.Debug("wish for copies is not heeded", "flist", root, "copies", k.Copies, "why", why)
			continue
		}
		rec := wishRecord{Version: k.Version, Copies: k.Copies, Since: time.Now().UTC().Truncate(time.Second)}
		if cur, ok := w.get(id); ok {
			rec.Here = cur.Here && k.Copies > 0
		}
		if err := n.setWish(root, rec); err != nil {
			n.log.Error("wish for copies cannot be kept", "flist", root, "err", err)
			continue
		}
		n.log.Info("a node of the site wishes copies", "flist", root, "copies", k.Copies)
	}
}

// get returns what is wished for a root.
func (w *wishes) get(id chunk.ID) (wishRecord, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if wi := w.all[id]; wi != nil {
		return wi.rec, true
	}
	return wishRecord{}, false
}

// mayHeed says why a wish of a peer is not to be heeded, nothing if it is.
func (n *Node) mayHeed(id chunk.ID, k swarm.Keep) string {
	w := n.wishes
	cur, known := w.get(id)
	switch {
	case known && !newer(k, cur):
		return "it is not newer"
	case k.Copies > api.MaxCopies:
		return "too many copies"
	case k.Version > max(cur.Version, uint64(time.Now().UnixMilli()))+uint64(maxAhead.Milliseconds()):
		return "it is of the future: are the clocks set?"
	case cur.Copies > 0:
		return ""
	case k.Copies == 0:
		return "it was taken back and is not known"
	case n.cfg.ReplicateMax == 0:
		return "nothing is kept for others"
	case w.active(false) >= maxWishes:
		return "there are too many"
	}
	return ""
}

// active counts wishes not taken back, of this node's user or of others.
func (w *wishes) active(here bool) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wi := range w.all {
		if wi.rec.Copies > 0 && wi.rec.Here == here {
			n++
		}
	}
	return n
}

// setWish makes rec the wish for root. w.edit is held.
func (n *Node) setWish(root cid.Cid, rec wishRecord) error {
	w, id := n.wishes, rootID(root)
	b, err := json.Marshal(rec)
	if err == nil {
		err = n.store.PutRecord(wishRecords, root.String(), b)
	}
	if err != nil {
		return fmt.Errorf("write wish for copies of flist %s: %w", root, err)
	}
	w.mu.Lock()
	if w.all[id] == nil {
		w.all[id] = &wish{root: root}
	}
	w.all[id].rec = rec
	oldest := w.dropEnded()
	w.mu.Unlock()
	w.poke()
	if oldest == nil {
		return nil
	}
	return n.store.DeleteRecord(wishRecords, oldest.root.String())
}

// dropEnded forgets the oldest wish taken back when there are too many, and
// returns it. w.mu is held.
func (w *wishes) dropEnded() (oldest *wish) {
	ended := 0
	for _, wi := range w.all {
		if wi.rec.Copies > 0 || wi.rep != nil {
			continue
		}
		if ended++; oldest == nil || wi.rec.Version < oldest.rec.Version {
			oldest = wi
		}
	}
	if ended <= maxEnded {
		return nil
	}
	delete(w.all, rootID(oldest.root))
	return oldest
}

// reconcile starts and stops work as the wishes say, and returns what peers are
// to be told.
func (n *Node) reconcile(ctx context.Context, work *sync.WaitGroup) []swarm.Keep {
	w := n.wishes
	w.mu.Lock()
	defer w.mu.Unlock()
	keeps := make([]swarm.Keep, 0, len(w.all))
	for id, wi := range w.all {
		active := wi.rec.Copies > 0 && (wi.rec.Here || n.cfg.ReplicateMax > 0)
		if wi.rep != nil && wi.rep.ended() {
			wi.rep = nil
		}
		switch {
		case active && wi.rep == nil:
			wi.rep = n.newReplica(ctx, wi.root)
			wi.rep.set(wi.rec)
			work.Go(wi.rep.run)
		case active:
			wi.rep.set(wi.rec)
		case wi.rep != nil:
			wi.rep.stop()
		}
		k := swarm.Keep{Root: id, Version: wi.rec.Version, Copies: wi.rec.Copies}
		if active {
			k.Takes, k.Metadata, k.Loads = wi.rep.takes.Load(), wi.rep.whole.Load(), wi.rep.loads.Load()
		}
		if active || wi.rec.Copies == 0 {
			keeps = append(keeps, k)
		}
	}
	return keeps
}

// reserve takes n bytes out of what this node is willing to keep for others,
// for a chunk that is to be fetched. It reports false if that is too much.
func (n *Node) reserve(bytes int64) bool {
	w := n.wishes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kept+bytes > n.cfg.ReplicateMax {
		return false
	}
	w.kept += bytes
	return true
}

// unreserve gives bytes back that were reserved and not needed.
func (n *Node) unreserve(bytes int64) {
	w := n.wishes
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept -= bytes
}

// reserveTables is reserve for tables in memory.
func (w *wishes) reserveTables(bytes uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if bytes > tablesKept || w.tables+bytes > tablesKept {
		return false
	}
	w.tables += bytes
	return true
}

func (w *wishes) unreserveTables(bytes uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tables -= bytes
}

// saveKept writes down how many bytes are kept for others. What is written may
// be a second old when the process is killed.
func (n *Node) saveKept() {
	w := n.wishes
	w.mu.Lock()
	kept := w.kept
	changed := kept != w.saved
	w.saved = kept
	w.mu.Unlock()
	if !changed {
		return
	}
	if err := n.store.PutRecord(keptRecords, keptKey, strconv.AppendInt(nil, kept, 10)); err != nil {
		n.log.Warn("it is not written down how much is kept for others", "bytes", kept, "err", err)
	}
}
