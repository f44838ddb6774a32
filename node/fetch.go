package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/swarm"
)

const (
	fetchParallel = 64 // chunks asked for at a time
	fetchMissing  = 64 // chunks nobody has, after which a fetch gives up
)

// Fetch implements api.Taker. It can be broken off at any time: what is here
// stays, and a later Fetch asks for the rest only.
func (n *Node) Fetch(ctx context.Context, req api.FetchRequest, progress func(api.FetchProgress)) (api.FetchResult, error) {
	if err := checkName(req.Name); err != nil {
		return api.FetchResult{}, err
	}
	start, needless := time.Now(), n.netStatus().BytesNeedless
	before, err := n.metadataHeld(ctx, req.FList)
	if err != nil {
		return api.FetchResult{}, err
	}
	im, err := n.load(ctx, req.FList)
	if err != nil {
		return api.FetchResult{}, err
	}
	defer im.Close()
	if err := n.pin(im.CID(), req.Name, api.HowFetched); err != nil { // whoever comes now finds us
		return api.FetchResult{}, err
	}
	f := newFetch(n, im, progress)
	f.before = before
	f.add(im.MetadataChunks(true), metadataSizes(im))
	if err := f.run(ctx, im, !req.MetadataOnly); err != nil {
		return api.FetchResult{}, fmt.Errorf("fetch flist %s: %w", im.CID(), err)
	}
	if err := n.store.Sync(); err != nil {
		return api.FetchResult{}, fmt.Errorf("write fetched chunks to disk: %w", err)
	}
	p := f.state
	n.log.Info("fetched", "flist", im.CID(), "chunks", p.Chunks, "new", p.NewChunks, "bytes", p.NewBytes, "took", time.Since(start))
	return api.FetchResult{CID: im.CID().String(), Chunks: p.Chunks, Bytes: p.Bytes, NewChunks: p.NewChunks,
		NewBytes: p.NewBytes, Seconds: time.Since(start).Seconds(), Needless: n.netStatus().BytesNeedless - needless}, nil
}

// fetch is one call of Fetch.
type fetch struct {
	n        *Node
	root     cid.Cid
	ids      []chunk.ID // each once
	sizes    []int      // plain; 0 if not known
	seen     map[chunk.ID]bool
	before   map[chunk.ID]bool // metadata that was here before the flist was loaded
	progress func(api.FetchProgress)

	mu      sync.Mutex
	state   api.FetchProgress
	told    time.Time
	missing []error
}

func newFetch(n *Node, im *flist.Image, progress func(api.FetchProgress)) *fetch {
	return &fetch{n: n, root: im.CID(), seen: make(map[chunk.ID]bool, im.NumChunks()), progress: progress}
}

func (f *fetch) add(ids []chunk.ID, sizes []int) {
	for i, id := range ids {
		if f.seen[id] {
			continue
		}
		f.seen[id] = true
		f.ids = append(f.ids, id)
		f.sizes = append(f.sizes, sizes[i])
		f.state.TotalChunks++
		f.state.TotalBytes += uint64(sizes[i])
	}
}

func (f *fetch) addData(im *flist.Image) {
	for i := range im.NumChunks() {
		id, size := im.Chunk(uint32(i))
		f.add([]chunk.ID{id}, []int{size})
	}
}

// metadataHeld returns which metadata chunks of the flist are here, before it
// is loaded. It fetches the root block.
func (n *Node) metadataHeld(ctx context.Context, name string) (map[chunk.ID]bool, error) {
	root, err := parseCID(name)
	if err != nil {
		return nil, err
	}
	ids := []chunk.ID{rootID(root)}
	has, err := n.store.HasMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	held := map[chunk.ID]bool{ids[0]: has[0]}
	r, err := flist.LoadRoot(ctx, n.working(root), root)
	if err != nil {
		return nil, err // it names the flist
	}
	ids = ids[:0]
	for _, s := range r.Sections {
		for _, l := range s.Chunks {
			ids = append(ids, l.ID())
		}
	}
	if has, err = n.store.HasMany(ctx, ids); err != nil {
		return nil, err
	}
	for i, id := range ids {
		held[id] = has[i]
	}
	return held, nil
}

// metadataSizes returns the sizes of im.MetadataChunks(true), 0 for the root
// block.
func metadataSizes(im *flist.Image) []int {
	ids := im.MetadataChunks(true)
	size := make(map[chunk.ID]int, len(ids))
	for _, s := range im.Root().Sections {
		left := s.Size
		for _, l := range s.Chunks {
			size[l.ID()] = int(min(left, chunk.MaxSize))
			left -= min(left, chunk.MaxSize)
		}
	}
	sizes := make([]int, len(ids))
	for i, id := range ids {
		sizes[i] = size[id]
	}
	return sizes
}

func (f *fetch) run(ctx context.Context, im *flist.Image, data bool) error {
	if data {
		for i := range im.NumChunks() {
			_, size := im.Chunk(uint32(i))
			f.state.TotalChunks++
			f.state.TotalBytes += uint64(size)
		}
	}
	if err := f.metadata(ctx); err != nil {
		return err
	}
	if data {
		if err := f.data(ctx, im); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.tell(true)
	return f.lack()
}

// metadata brings the metadata chunks, most of which came when the flist was
// loaded.
func (f *fetch) metadata(ctx context.Context) error {
	held, err := f.n.store.HasMany(ctx, f.ids)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchParallel)
	for i, id := range f.ids {
		if held[i] {
			f.count(f.sizes[i], !f.before[id])
			continue
		}
		g.Go(func() error { return f.bring(gctx, i) })
	}
	return g.Wait()
}

// data brings the data chunks, from all who have them, and trades them with
// those who fetch the flist too.
func (f *fetch) data(ctx context.Context, im *flist.Image) error {
	t, held, err := f.n.table(ctx, im)
	if err != nil {
		return err
	}
	if err := f.n.swarm.Share(t, held); err != nil {
		return err
	}
	here := make([]bool, len(t.IDs))
	for _, i := range held {
		here[i] = true
	}
	var wanted []uint32
	for i := range t.IDs {
		if here[i] {
			_, size := im.Chunk(uint32(i))
			f.count(size, false)
		} else {
			wanted = append(wanted, uint32(i))
		}
	}
	defer f.n.announcer.holdBack()()
	return f.n.swarm.Download(ctx, t.Root, wanted, swarm.Prefetch, f.n.cfg.FetchTimeout, func(p chunk.Packed, plain []byte) error {
		if err := f.n.store.PutTrusted(ctx, p); err != nil { // verified by the swarm
			return err
		}
		f.count(len(plain), true)
		return nil
	})
}

// bring gets one chunk and keeps it. One that nobody has is noted, so that the
// others come all the same.
func (f *fetch) bring(ctx context.Context, i int) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	p, data, err := f.n.ask(ctx, f.ids[i], f.n.bulk(f.root).w)
	if errors.Is(err, chunk.ErrNotFound) && ctx.Err() == nil {
		f.mu.Lock()
		f.missing = append(f.missing, err)
		tooMany := len(f.missing) >= fetchMissing
		f.mu.Unlock()
		if tooMany {
			return f.lack()
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.n.store.PutTrusted(ctx, p); err != nil { // verified by the swarm
		return err
	}
	f.count(len(data), true)
	return nil
}

// maxToldMissing is how many missing chunks an error names.
const maxToldMissing = 5

// lack says which chunks nobody has.
func (f *fetch) lack() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.missing) == 0 {
		return nil
	}
	if len(f.missing) == 1 {
		return f.missing[0]
	}
	var b strings.Builder
	for _, err := range f.missing[:min(len(f.missing), maxToldMissing)] {
		b.WriteString("; ")
		b.WriteString(err.Error())
	}
	return fmt.Errorf("%w: at least %d of %d%s", chunk.ErrNotFound, len(f.missing), f.state.TotalChunks, b.String())
}

func (f *fetch) count(bytes int, isNew bool) {
	f.mu.Lock()
	f.state.Chunks++
	f.state.Bytes += uint64(bytes)
	if isNew {
		f.state.NewChunks++
		f.state.NewBytes += uint64(bytes)
	}
	f.mu.Unlock()
	f.tell(false)
}

const tellEvery = 100 * time.Millisecond

// tell reports progress, not too often, from one goroutine at a time.
func (f *fetch) tell(last bool) {
	if f.progress == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if last || time.Since(f.told) >= tellEvery {
		f.told = time.Now()
		f.state.Peers = f.n.swarm.Members(rootID(f.root))
		f.progress(f.state)
	}
}
