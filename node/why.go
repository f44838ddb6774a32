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
	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

// whyTime bounds the lookups of a Why.
const whyTime = 10 * time.Second

// Why implements api.Reporter.
func (n *Node) Why(ctx context.Context, req api.WhyRequest) (api.Why, error) {
	var res api.Why
	var ids []chunk.ID
	var err error
	if req.Chunk != "" {
		c, err := cid.Decode(req.Chunk)
		if err != nil {
			return res, api.WithCode(api.Invalid, fmt.Errorf("%q is neither a chunk's CID nor FLIST:PATH: %w", req.Chunk, err))
		}
		id, err := chunk.FromCID(c)
		if err != nil {
			return res, fmt.Errorf("%w: %w", api.ErrInvalid, err)
		}
		ids = []chunk.ID{id}
		res.Chunks = []api.WhyChunk{{CID: req.Chunk}}
	} else if ids, res, err = n.chunksOf(ctx, req.FList, req.Path); err != nil {
		return res, err
	}
	here, err := n.store.HasMany(ctx, ids)
	if err != nil {
		return res, err
	}
	ctx, cancel := context.WithTimeout(ctx, whyTime)
	defer cancel()
	var g errgroup.Group
	for i, id := range ids {
		res.Chunks[i].Here = here[i]
		g.Go(func() error {
			n.why(ctx, id, &res.Chunks[i])
			return nil
		})
	}
	if root, err := parseCID(req.FList); err == nil {
		res.FListProviders = names(n.swarm.Providers(ctx, rootID(root)))
	}
	return res, g.Wait()
}

// chunksOf returns the chunks of a file, each once, up to a bound.
func (n *Node) chunksOf(ctx context.Context, name, path string) (ids []chunk.ID, res api.Why, err error) {
	im, ino, err := n.resolve(ctx, name, path)
	if err != nil {
		return nil, res, err
	}
	defer im.Close()
	if a := im.Attr(ino); !a.IsRegular() {
		return nil, res, fmt.Errorf("%w: %q is a %s, not a file", api.ErrInvalid, path, typeName(a.Mode))
	}
	seen := map[chunk.ID]bool{}
	res.Chunks = []api.WhyChunk{}
	for p, ok := im.PieceAt(ino, 0); ok; p, ok = im.PieceAt(ino, p.Offset+p.Length) {
		if p.Hole {
			continue
		}
		id, size := im.Chunk(p.Chunk)
		if seen[id] {
			continue
		}
		seen[id] = true
		if len(ids) == api.MaxWhy {
			res.Left++
			continue
		}
		ids = append(ids, id)
		res.Chunks = append(res.Chunks, api.WhyChunk{CID: id.String(), Bytes: size})
	}
	return ids, res, nil
}

// why fills in who has a chunk. It looks up who announced it.
func (n *Node) why(ctx context.Context, id chunk.ID, out *api.WhyChunk) {
	out.Providers = names(n.swarm.Providers(ctx, id))
	w := n.swarm.Whereabouts(id)
	out.Fetching = w.Fetching
	out.Members, out.Asked = []api.WhyPeer{}, []api.WhyAsked{}
	for _, m := range w.Members {
		out.Members = append(out.Members, api.WhyPeer{Peer: m.Peer.String(), OwnSite: m.Near, Holds: m.Holds})
	}
	slices.SortFunc(out.Members, func(a, b api.WhyPeer) int {
		if a.Holds != b.Holds {
			if a.Holds {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Peer, b.Peer)
	})
	out.Members = slices.Compact(out.Members) // of two flists
	for _, a := range w.Asked {
		out.Asked = append(out.Asked, api.WhyAsked{Peer: a.Peer.String(), Class: a.Class.String(), Time: a.Time.UTC(), Took: a.Took, Answer: a.Answer})
	}
}

func names(peers []peer.ID) []string {
	out := make([]string, len(peers))
	for i, p := range peers {
		out[i] = p.String()
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
