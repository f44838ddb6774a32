package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist"
)

// Bounds of the images kept loaded between commands. A mounted image is held
// by its mount, whether it is among these or not.
const (
	maxImages     = 8
	maxImageBytes = 256 << 20 // of tables
)

// images keeps the flists used last loaded.
type images struct {
	loading flights[cid.Cid, *flist.Image]

	mu    sync.Mutex
	lru   *simplelru.LRU[cid.Cid, *flist.Image]
	bytes uint64
}

func newImages() (*images, error) {
	i := &images{}
	lru, err := simplelru.NewLRU(maxImages, func(_ cid.Cid, im *flist.Image) { i.bytes -= tableBytes(im) })
	i.lru = lru
	return i, err
}

// load returns the flist name, whose tables come from the node's cache, store
// or swarm.
func (n *Node) load(ctx context.Context, name string) (*flist.Image, error) {
	root, err := parseCID(name)
	if err != nil {
		return nil, err
	}
	if im, ok := n.images.get(root); ok {
		return im, nil
	}
	return n.images.loading.do(ctx, root, func(ctx context.Context) (*flist.Image, error) {
		tables := n.working(root).once()
		if _, err := flist.LoadRoot(ctx, tables, root); err != nil {
			return nil, err // it names the flist
		}
		im, err := flist.Load(ctx, tables, root)
		if err != nil {
			return nil, fmt.Errorf("load flist %s: %w", root, err)
		}
		n.images.add(root, im)
		return im, nil
	})
}

func (i *images) get(root cid.Cid) (*flist.Image, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.lru.Get(root)
}

func (i *images) add(root cid.Cid, im *flist.Image) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.lru.Contains(root) {
		return
	}
	i.bytes += tableBytes(im)
	i.lru.Add(root, im)
	for i.bytes > maxImageBytes && i.lru.Len() > 1 {
		i.lru.RemoveOldest()
	}
}

// tableBytes is the plain size of the tables of a loaded image.
func tableBytes(im *flist.Image) uint64 {
	var sum uint64
	for name, s := range im.Root().Sections {
		if name != flist.SectionDigests {
			sum += s.Size
		}
	}
	return sum
}
