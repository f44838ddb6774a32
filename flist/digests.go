package flist

import (
	"context"

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
	t := []table{im.root.table(src, SectionDigests)}
	var err error
	if t[0].first, err = t[0].get(ctx, 0); err != nil {
		return nil, err
	}
	d.sums = make([]byte, t[0].Size) // now that something of it is there
	if err := fetchTables(ctx, t, func(_ int, data []byte, off int64) error {
		copy(d.sums[off:], data)
		return nil
	}); err != nil {
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
