package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Bounds of the images kept loaded between commands. A mounted image is held
// by its mount, whether it is among these or not.
const (
	maxImages     = 8
	maxImageBytes = 256 << 20 // of tables
)

// images keeps the flists used last loaded. It has a reference to each; who
// gets one from it gets a reference of his own.
type images struct {
	loading flights[cid.Cid, struct{}]

	mu      sync.Mutex
	closed  bool
	lru     *simplelru.LRU[cid.Cid, *flist.Image]
	bytes   uint64
	evicted []*flist.Image // to be closed without mu
}

func newImages() (*images, error) {
	i := &images{}
	lru, err := simplelru.NewLRU(maxImages, func(_ cid.Cid, im *flist.Image) {
		i.bytes -= tableBytes(im.Root())
		i.evicted = append(i.evicted, im)
	})
	i.lru = lru
	return i, err
}

// load returns the flist name, whose tables come from the node's cache, store
// or swarm. The caller closes it.
func (n *Node) load(ctx context.Context, name string) (*flist.Image, error) {
	root, err := parseCID(name)
	if err != nil {
		return nil, err
	}
	for { // others may have driven it out again
		if im, ok := n.images.get(root); ok {
			return im, nil
		}
		if _, err := n.images.loading.do(ctx, root, func(ctx context.Context) (none struct{}, err error) {
			return none, n.loadInto(ctx, root)
		}); err != nil {
			return nil, err
		}
	}
}

// loadInto loads an flist into n.images.
func (n *Node) loadInto(ctx context.Context, root cid.Cid) error {
	tables := tableSource{n.working(root).once()}
	if _, err := flist.LoadRoot(ctx, tables, root); err != nil {
		return err // it names the flist
	}
	im, err := n.loadFrom(ctx, tables, root)
	if err != nil {
		return fmt.Errorf("load flist %s: %w", root, err)
	}
	bytes := int64(tableBytes(im.Root()))
	if err := n.images.add(root, im); err != nil {
		return err
	}
	n.tables.wish(root, bytes)
	return nil
}

// tableSource is the source of an flist's tables, whose chunks are needed once
// and then recycled.
type tableSource struct{ source }

var _ chunk.Owner = tableSource{}

// GetOwned implements chunk.Owner.
func (s tableSource) GetOwned(ctx context.Context, id chunk.ID) ([]byte, error) {
	if data, err := s.n.store.GetOwned(ctx, id); err == nil {
		return data, nil
	}
	shared, err := s.Get(ctx, id) // it knows what to do
	if err != nil {
		return nil, err
	}
	return append(chunk.NewBuffer(len(shared))[:0], shared...), nil
}

// loadFrom loads an flist with its tables in a file, so that they do not fill
// the memory, or, where there can be none, on the heap. Tables saved earlier are
// the quickest.
func (n *Node) loadFrom(ctx context.Context, src chunk.Source, root cid.Cid) (*flist.Image, error) {
	if im, err := n.tables.load(ctx, src, root); err == nil {
		return im, nil
	}
	im, err := flist.LoadMapped(ctx, src, root, n.tempDir())
	if errors.Is(err, flist.ErrTableFile) {
		n.log.Warn("tables of an flist are kept in memory", "flist", root, "err", err)
		im, err = flist.Load(ctx, src, root)
	}
	return im, err
}

func (i *images) get(root cid.Cid) (*flist.Image, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	im, ok := i.lru.Get(root)
	if !ok {
		return nil, false
	}
	return im.Share(), true
}

// errImagesClosed says that the node has ended.
var errImagesClosed = errors.New("node is closed")

// add takes im over.
func (i *images) add(root cid.Cid, im *flist.Image) error {
	i.mu.Lock()
	switch {
	case i.closed:
		i.mu.Unlock()
		im.Close()
		return errImagesClosed
	case i.lru.Contains(root):
		i.mu.Unlock()
		im.Close()
		return nil
	}
	i.bytes += tableBytes(im.Root())
	i.lru.Add(root, im)
	for i.bytes > maxImageBytes && i.lru.Len() > 1 {
		i.lru.RemoveOldest()
	}
	i.unlockAndClose()
	return nil
}

// close gives back what is loaded. Images others have a reference to live on.
func (i *images) close() {
	i.mu.Lock()
	i.closed = true
	i.lru.Purge()
	i.unlockAndClose()
}

// unlockAndClose unlocks i and closes what was driven out.
func (i *images) unlockAndClose() {
	evicted := i.evicted
	i.evicted = nil
	i.mu.Unlock()
	for _, im := range evicted {
		im.Close()
	}
}

// tableBytes is the plain size of the tables an flist is loaded with.
func tableBytes(r *flist.Root) uint64 {
	var sum uint64
	for name, s := range r.Sections {
		if name != flist.SectionDigests {
			sum += s.Size
		}
	}
	return sum
}
