package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flistnode/flistnode/flist/unpack"
	"github.com/flistnode/flistnode/node/api"
)

// Unpack implements api.Taker.
func (n *Node) Unpack(ctx context.Context, req api.UnpackRequest, progress func(api.UnpackProgress)) (api.UnpackResult, error) {
	if err := checkDir(req.Dir); err != nil {
		return api.UnpackResult{}, err
	}
	if within(n.cfg.Data, req.Dir) {
		return api.UnpackResult{}, fmt.Errorf("%w: %s is inside the node's data directory %s", api.ErrInvalid, req.Dir, n.cfg.Data)
	}
	start := time.Now()
	im, err := n.load(ctx, req.FList)
	if err != nil {
		return api.UnpackResult{}, err
	}
	defer im.Close()
	opts := unpack.Options{Workers: req.Workers, Overwrite: req.Overwrite, Log: n.log}
	if progress != nil {
		opts.Progress = func(p unpack.Progress) {
			progress(api.UnpackProgress{Entries: uint64(p.Entries), TotalEntries: uint64(p.TotalEntries),
				Bytes: uint64(p.Bytes), TotalBytes: uint64(p.TotalBytes)})
		}
	}
	res, err := unpack.Dir(ctx, im, n.working(im.CID()), req.Dir, opts)
	if errors.Is(err, unpack.ErrNotEmpty) {
		return api.UnpackResult{}, api.WithCode(api.Exists, err)
	}
	if err != nil {
		return api.UnpackResult{}, err
	}
	out := api.UnpackResult{CID: im.CID().String(), Entries: uint64(res.Entries), Files: uint64(res.Files),
		Bytes: uint64(res.Bytes), Seconds: time.Since(start).Seconds()}
	for _, p := range res.NotRestored {
		out.NotRestored = append(out.NotRestored, api.Problem{Path: p.Paths[0], Error: fmt.Sprintf("%s of %d entries: %v", p.What, p.Count, p.Err)})
	}
	return out, nil
}
