package flist

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist/chunk"
)

// ErrSaved says that a file is not what Save wrote for this image, or not any
// more.
var ErrSaved = errors.New("saved tables cannot be used")

// A saved image is its memory as it is: tables that were checked, and what was
// worked out from them. Behind it are savedMagic, the ID of the root block, and
// the CRC-32C of each savedBlock bytes of the memory. The checksums are there for
// what disks and power cuts do; SHA2-256, which takes ten times as long,
// would tell no more, since it would lie beside the bytes just the same.
const (
	savedMagic = "flist tables 001" // another number when layout, or what check writes, changes
	savedBlock = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Save writes the tables of im to w for LoadSaved. They are for the machine's
// own use: who can write them can make them say anything.
func (im *Image) Save(w io.Writer) error {
	id, err := chunk.FromCID(im.cid)
	if err != nil {
		return err
	}
	trailer := append([]byte(savedMagic), id[:]...)
	err = Guard(func() error {
		for off := int64(0); off < int64(len(im.mem.b)); off += savedBlock {
			b := im.mem.block(off)
			trailer = binary.LittleEndian.AppendUint32(trailer, crc32.Checksum(b, castagnoli))
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		_, err := w.Write(trailer)
		return err
	})
	if err != nil {
		return fmt.Errorf("save tables of flist %s: %w", im.cid, err)
	}
	return nil
}

// block returns the savedBlock bytes at off, or what is left of them.
func (m *memory) block(off int64) []byte { return m.b[off:min(off+savedBlock, int64(len(m.b)))] }

// LoadSaved is LoadMapped from the file at path that Save wrote: it gets the
// root block from src, which vouches for the sizes of the tables, and compares
// the checksum of every block of the file, and does not check the tables again.
// The error matches ErrSaved if the file cannot be used, and then
// fs.ErrNotExist if there is none.
func LoadSaved(ctx context.Context, src chunk.Source, root cid.Cid, path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSaved, err)
	}
	defer f.Close()
	r, err := LoadRoot(ctx, src, root)
	if err != nil {
		return nil, err
	}
	l := r.layout()
	sums, err := savedTrailer(f, root, l.size)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrSaved, path, err)
	}
	mem := &memory{file: f}
	mem.refs.Store(1)
	if mem.b, err = unix.Mmap(int(f.Fd()), 0, int(l.size), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("%w: map %s: %w", ErrSaved, path, err)
	}
	im := &Image{cid: root, root: r, mem: mem}
	raw := im.cut(&l)
	if err = mem.compare(ctx, sums); err == nil {
		err = Guard(func() (err error) {
			im.xattrs, err = parseXattrs(raw.xattrs, &r.Counts)
			return err
		})
	}
	if err == nil {
		return im, nil
	}
	im.Close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrSaved, path, err)
}

// savedTrailer returns the checksums of the blocks of size bytes saved in f.
func savedTrailer(f *os.File, root cid.Cid, size int64) (u32s, error) {
	id, err := chunk.FromCID(root)
	if err != nil {
		return nil, err
	}
	head := append([]byte(savedMagic), id[:]...)
	trailer := make([]byte, int64(len(head))+(size+savedBlock-1)/savedBlock*4)
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if want := size + int64(len(trailer)); st.Size() != want {
		return nil, fmt.Errorf("%d bytes, want %d", st.Size(), want)
	}
	if _, err := f.ReadAt(trailer, size); err != nil {
		return nil, err
	}
	sums, ok := bytes.CutPrefix(trailer, head)
	if !ok {
		return nil, errors.New("it is of another version or flist")
	}
	return sums, nil
}

// compare compares the memory with the checksums of its blocks.
func (m *memory) compare(ctx context.Context, sums u32s) error {
	return each(ctx, sums.len(), func(_ context.Context, i int) error {
		return Guard(func() error {
			off := int64(i) * savedBlock
			if crc32.Checksum(m.block(off), castagnoli) != sums.at(i) {
				return fmt.Errorf("the %d bytes at %d are not what was written", len(m.block(off)), off)
			}
			return nil
		})
	})
}
