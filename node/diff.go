package node

import (
	"context"
	"fmt"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/node/api"
)

var changeKinds = map[flist.ChangeKind]string{
	flist.Added: api.Added, flist.Removed: api.Removed, flist.Modified: api.Changed,
}

// Diff implements api.Checker. It needs the metadata of both flists with their
// digests, and no data.
func (n *Node) Diff(ctx context.Context, nameA, nameB string, each func(api.Change) error) error {
	a, da, err := n.loadWithDigests(ctx, nameA)
	if err != nil {
		return err
	}
	defer a.Close()
	b, db, err := n.loadWithDigests(ctx, nameB)
	if err != nil {
		return err
	}
	defer b.Close()
	for c := range flist.Diff(a, b, da, db) {
		if err := ctx.Err(); err != nil {
			return err
		}
		out := api.Change{Kind: changeKinds[c.Kind]}
		for _, aspect := range c.What {
			out.What = append(out.What, string(aspect))
		}
		if c.Kind != flist.Added {
			e := entry(a, da, c.Path, c.A)
			out.Old = &e
		}
		if c.Kind != flist.Removed {
			e := entry(b, db, c.Path, c.B)
			out.New = &e
		}
		if err := each(out); err != nil {
			return err
		}
	}
	return nil
}

// loadWithDigests loads an flist, which the caller closes.
func (n *Node) loadWithDigests(ctx context.Context, name string) (*flist.Image, *flist.Digests, error) {
	im, err := n.load(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	var d *flist.Digests
	if err := flist.Guard(func() (err error) {
		d, err = im.Digests(ctx, n.working(im.CID()))
		return err
	}); err != nil {
		im.Close()
		return nil, nil, fmt.Errorf("digests of flist %s: %w", im.CID(), err)
	}
	return im, d, nil
}
