package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/swarm"
)

const (
	replicaTick  = 500 * time.Millisecond
	maxRest      = 10 * time.Second // between two counts
	replicaBatch = 256              // chunks chosen at a time
	// replicaInFlight bounds the chunks waited for at a time, of those that
	// are at the site and of the others.
	replicaInFlight = 16
	// replicaRetry is how long a chunk that was found nowhere, an flist that
	// could not be loaded, and a full disk are left alone.
	replicaRetry = 30 * time.Second
	// lateAfter is how long nothing must change until chunks are fetched by one
	// node more than should, and again.
	lateAfter = 30 * time.Second
	// holdFirst is how long a node waits, when it has loaded the flist, for
	// others to say that they take chunks too; and holdLoading how long, while
	// others are loading it.
	holdFirst   = time.Second
	holdLoading = 10 * time.Second
)

// replica is this node's part in keeping copies of an flist.
type replica struct {
	n    *Node
	root cid.Cid
	ctx  context.Context // ends when the wish is taken back or the node stops
	stop context.CancelFunc
	done chan struct{}
	wake chan struct{}

	copies atomic.Int64
	here   atomic.Bool
	busy   [2]atomic.Bool // chunks of the site, and from elsewhere, are being fetched
	// What peers are told: that chunks are taken, all metadata is here, and
	// the flist is being loaded.
	takes, whole, loads atomic.Bool

	// Of run's goroutine, and not changed once the flist is loaded.
	info     *flist.Root
	tables   uint64 // reserved
	reserved int64  // for metadata

	mu       sync.Mutex
	sizes    []int                // of the data chunks, plain; nil before the flist is loaded
	others   int                  // metadata chunks
	bytes    uint64               // of all, plain
	tried    map[uint32]time.Time // chunks that could not be had
	full     time.Time            // when the disk was full
	failed   error                // of open
	census   *swarm.Census
	counted  int // copies that were wished when counts was made
	counts   swarm.Copies
	lost     int
	progress time.Time // when there was last a change of the wish, of the nodes, or of a chunk
	opened   time.Time // when the flist was loaded
}

// newReplica returns the work on copies of root, which lasts until ctx ends or
// stop is called.
func (n *Node) newReplica(ctx context.Context, root cid.Cid) *replica {
	r := &replica{n: n, root: root, done: make(chan struct{}), wake: make(chan struct{}, 1), tried: map[uint32]time.Time{}, progress: time.Now()}
	r.ctx, r.stop = context.WithCancel(ctx)
	return r
}

// set gives r what is wished now.
func (r *replica) set(rec wishRecord) {
	r.here.Store(rec.Here)
	if r.copies.Swap(int64(rec.Copies)) != int64(rec.Copies) {
		r.poke()
	}
}

func (r *replica) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *replica) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// run loads the flist and then brings what this node is to hold.
func (r *replica) run() {
	defer close(r.done)
	defer r.stop()
	for {
		r.loads.Store(true)
		err := r.open()
		r.mu.Lock()
		r.failed = err
		r.mu.Unlock()
		r.loads.Store(false)
		r.n.wishes.poke()
		if err == nil {
			break
		}
		r.giveBack()
		if r.ctx.Err() == nil {
			r.n.log.Warn("copies are not kept here", "flist", r.root, "err", err)
		}
		if !wait(r.ctx, replicaRetry) {
			return
		}
	}
	defer r.giveBack()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { r.n.swarm.Attend(r.ctx, rootID(r.root)) })
	work.Go(r.keepMetadata)
	tick := time.NewTicker(replicaTick)
	defer tick.Stop()
	for r.ctx.Err() == nil {
		began := time.Now()
		r.look(began, &work)
		if !wait(r.ctx, min(9*time.Since(began), maxRest)) { // at most a tenth of a core
			break
		}
		select {
		case <-tick.C:
		case <-r.wake:
		case <-r.ctx.Done():
		}
	}
}

// source is where the flist comes from, behind all else.
func (r *replica) source() source {
	return source{r.n, want{root: rootID(r.root), class: swarm.Replication, patience: r.n.findTimeout}}.once()
}

// errKept says that this node keeps as much for others as it may.
var errKept = errors.New("this node keeps as much for others as it may (--replicate-max)")

// open brings what is needed to know the chunks, holds the flist and shares it.
// With an error, giveBack must follow.
func (r *replica) open() error {
	root, err := flist.LoadRoot(r.ctx, r.source(), r.root)
	if err != nil {
		return err
	}
	r.info = root
	if !r.here.Load() {
		if err := r.reserve(); err != nil {
			return err
		}
	}
	im, ok := r.n.images.get(r.root)
	if !ok {
		if im, err = r.n.loadFrom(r.ctx, r.source(), r.root); err != nil {
			return fmt.Errorf("load flist %s: %w", r.root, err)
		}
	}
	defer im.Close()
	t, held, err := r.n.table(r.ctx, im)
	if err != nil {
		return err
	}
	sizes, all := make([]int, im.NumChunks()), uint64(0)
	for i := range sizes {
		_, sizes[i] = im.Chunk(uint32(i))
		all += uint64(sizes[i])
	}
	metadata := metadataSizes(im)
	for _, size := range metadata {
		all += uint64(size)
	}
	if err := r.n.pin(r.root, "", api.HowReplicated); err != nil {
		return err
	}
	if err := r.n.swarm.Share(t, held); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes, r.others, r.bytes, r.opened = sizes, len(metadata), all, time.Now()
	return nil
}

// reserve takes what the metadata can need out of what is kept for others.
func (r *replica) reserve() error {
	sum := uint64(0)
	for _, s := range r.info.Sections {
		sum += s.Size
	}
	if !r.n.wishes.reserveTables(sum) {
		return fmt.Errorf("tables of %d bytes are too much beside others", sum)
	}
	r.tables = sum
	_, bytes, err := r.missing()
	if err != nil {
		return err
	}
	if !r.n.reserve(bytes) {
		return errKept
	}
	r.reserved = bytes
	return nil
}

// giveBack ends what reserve has taken and is not used.
func (r *replica) giveBack() {
	r.n.wishes.unreserveTables(r.tables)
	r.tables = 0
	if r.reserved == 0 {
		return
	}
	_, left, err := r.missing()
	if err == nil {
		r.n.unreserve(min(left, r.reserved))
	}
	r.reserved = 0
}

// missing returns the metadata chunks that are not here, and the plain size of
// those but the root block.
func (r *replica) missing() (ids []chunk.ID, bytes int64, err error) {
	all, sizes := []chunk.ID{rootID(r.root)}, []int64{0}
	for _, s := range r.info.Sections {
		left := int64(s.Size)
		for _, l := range s.Chunks {
			all = append(all, l.ID())
			sizes = append(sizes, min(left, chunk.MaxSize))
			left -= min(left, chunk.MaxSize)
		}
	}
	held, err := r.n.store.HasMany(context.WithoutCancel(r.ctx), all) // giveBack asks late
	if err != nil {
		return nil, 0, err
	}
	for i, id := range all {
		if !held[i] {
			ids = append(ids, id)
			bytes += sizes[i]
		}
	}
	return ids, bytes, nil
}

// keepMetadata brings the metadata that is not needed to know the chunks, and
// again what was lost since.
func (r *replica) keepMetadata() {
	for {
		missing, _, err := r.missing()
		if err == nil && len(missing) > 0 {
			g, ctx := errgroup.WithContext(r.ctx)
			g.SetLimit(replicaInFlight)
			for _, id := range missing {
				g.Go(func() error {
					_, err := r.store(ctx, id)
					return err
				})
			}
			err = g.Wait()
		}
		if whole := err == nil; r.whole.Swap(whole) != whole {
			r.n.wishes.poke()
		}
		if err != nil && r.ctx.Err() == nil {
			r.n.log.Warn("metadata is not all here", "flist", r.root, "err", err)
		}
		if !wait(r.ctx, replicaRetry) {
			return
		}
	}
}

// room reports whether this node takes more chunks.
func (r *replica) room(now time.Time) bool {
	if !r.n.roomToPrefetch() || now.Sub(r.full) < replicaRetry {
		return false
	}
	if r.here.Load() {
		return true
	}
	w := r.n.wishes
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept+chunk.MaxSize <= r.n.cfg.ReplicateMax
}

// look counts copies, and begins to fetch what this node is to hold.
func (r *replica) look(now time.Time, work *sync.WaitGroup) {
	n, copies := r.n, int(r.copies.Load())
	r.mu.Lock()
	defer r.mu.Unlock()
	if takes := r.room(now); r.takes.Swap(takes) != takes {
		n.wishes.poke()
	}
	c := n.swarm.Census(rootID(r.root), n.wishes.grace, r.census)
	if c == nil {
		return // cannot be: it is attended
	}
	if c != r.census || copies != r.counted {
		counts := c.Count(copies)
		if r.census == nil || copies != r.counted || counts.Nodes != r.counts.Nodes || counts.Made != r.counts.Made {
			r.progress = now
		}
		r.census, r.counted, r.counts = c, copies, counts
		for i := range r.tried {
			if c.Held(i) > 0 {
				delete(r.tried, i)
			}
		}
	}
	r.lost = 0
	for i := range r.tried {
		if c.Held(i) == 0 {
			r.lost++
		}
	}
	if since := now.Sub(r.opened); r.counts.Enough == len(r.sizes) || since < holdFirst || r.counts.Loading > 0 && since < holdLoading {
		return
	}
	late := int(now.Sub(r.progress) / lateAfter)
	here, elsewhere := c.Lacks(copies, late, replicaBatch, func(i uint32) bool { return now.Sub(r.tried[i]) < replicaRetry })
	for k, list := range [][]uint32{here, elsewhere} {
		if len(list) == 0 || r.busy[k].Swap(true) {
			continue
		}
		work.Go(func() {
			r.bring(c, list)
			r.busy[k].Store(false)
			r.poke()
		})
	}
}

// bring fetches chunks.
func (r *replica) bring(c *swarm.Census, list []uint32) {
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(replicaInFlight)
	for _, i := range list {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return r.bringOne(ctx, i, c.ID(i)) })
	}
	if err := g.Wait(); err != nil && r.ctx.Err() == nil {
		r.n.log.Warn("copies cannot be kept", "flist", r.root, "err", err)
		r.mu.Lock()
		r.full = time.Now()
		r.mu.Unlock()
	}
}

// bringOne fetches a chunk. One that nobody gives is left alone for a while.
func (r *replica) bringOne(ctx context.Context, i uint32, id chunk.ID) error {
	mine, room := r.here.Load(), int64(r.sizes[i])
	if !mine && !r.n.reserve(room) {
		return nil // look will see it
	}
	packed, err := r.store(ctx, id)
	if !mine {
		r.n.unreserve(room - packed)
	}
	if errors.Is(err, chunk.ErrNotFound) {
		r.mu.Lock()
		r.tried[i] = time.Now()
		r.mu.Unlock()
		return nil
	}
	return err
}

// store fetches a chunk into the store and returns how many bytes it has there,
// 0 with an error.
func (r *replica) store(ctx context.Context, id chunk.ID) (packed int64, err error) {
	p, _, err := r.n.swarm.GetPacked(ctx, id, swarm.Replication, swarm.Hint{Root: rootID(r.root)})
	if err == nil {
		err = r.n.store.PutTrusted(ctx, p) // verified by the swarm
	}
	if err != nil {
		return 0, err
	}
	return int64(len(p.Bytes)), nil
}
