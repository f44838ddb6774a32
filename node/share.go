package node

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/swarm"
)

// table returns the chunk table of im and the places that are held here.
func (n *Node) table(ctx context.Context, im *flist.Image) (t swarm.ChunkTable, held []uint32, err error) {
	t = swarm.ChunkTable{Root: rootID(im.CID()), IDs: make([]chunk.ID, im.NumChunks())}
	if err := flist.Guard(func() error {
		for i := range t.IDs {
			t.IDs[i], _ = im.Chunk(uint32(i))
		}
		return nil
	}); err != nil {
		return t, nil, err
	}
	has, err := n.store.HasMany(ctx, t.IDs)
	if err != nil {
		return t, nil, err
	}
	for i, ok := range has {
		if ok {
			held = append(held, uint32(i))
		}
	}
	return t, held, nil
}

// attend lets this node take part in the flist of a table as one that reads it,
// until ctx ends.
func (n *Node) attend(ctx context.Context, t swarm.ChunkTable, held []uint32) {
	if err := n.swarm.Share(t, held); err != nil {
		n.log.Warn("peers are not told what is held of an flist", "root", t.Root, "err", err)
		return
	}
	n.swarm.Attend(ctx, t.Root)
}

// held is table for an flist others share, by its root block. The error matches
// chunk.ErrNotFound if the flist is not held here on purpose.
func (n *Node) held(ctx context.Context, root chunk.ID) (swarm.ChunkTable, []uint32, error) {
	name := cid.NewCidV1(cid.DagCBOR, root.Multihash())
	if _, err := n.pinOf(name); err != nil {
		if errors.Is(err, chunkstore.ErrNoRecord) {
			return swarm.ChunkTable{}, nil, chunk.ErrNotFound
		}
		return swarm.ChunkTable{}, nil, err
	}
	im, ok := n.images.get(name)
	if !ok {
		var err error
		if im, err = n.loadFrom(ctx, local{n}, name); err != nil { // a request must not start a fetch
			return swarm.ChunkTable{}, nil, err
		}
	}
	defer im.Close()
	return n.table(ctx, im)
}
