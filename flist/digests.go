package flist

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Digests is the table of per-file SHA2-256 sums, which mounting does not
// need. It is immutable and may be used concurrently.
type Digests struct {
	sums []byte
	rank []uint32 // inode -> number of regular files before it
	im   *Image
}

// Digests gets the digests of im from src.
func (im *Image) Digests(ctx context.Context, src chunk.Source) (*Digests, error) {
	d := &Digests{im: im, rank: make([]uint32, im.NumInodes())}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	err := fetchSection(gctx, g, src, SectionDigests, im.root.Sections[SectionDigests], &d.sums)
	if werr := g.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return nil, err
	}
	n := uint32(0)
	for i := range d.rank {
		d.rank[i] = n
		if im.Mode(Inode(i))&ModeType == ModeRegular {
			n++
		}
	}
	return d, nil
}

// Of returns the SHA2-256 of a file's content, holes read as zeros; false if
// ino is no file or its digest was not recorded.
func (d *Digests) Of(ino Inode) (sum [32]byte, ok bool) {
	if d.im.Mode(ino)&ModeType != ModeRegular {
		return sum, false
	}
	copy(sum[:], d.sums[int(d.rank[ino])*32:])
	return sum, sum != [32]byte{}
}
