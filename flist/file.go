package flist

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"
	"github.com/klauspost/compress/zstd"

	"github.com/flistnode/flistnode/flist/chunk"
)

// FileOptions says what goes into a .flist file beside what a mount needs.
type FileOptions struct {
	Digests bool // the per-file digests
	Data    bool // the data chunks: a full export
}

// WriteFile writes im as a .flist file: a zstd-compressed CARv1 of the root
// block, the metadata chunks and, if asked, the data chunks, all from src.
func WriteFile(ctx context.Context, w io.Writer, src chunk.Source, im *Image, opts FileOptions) error {
	zw, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(fileWindow))
	if err != nil {
		return fmt.Errorf("write .flist: %w", err)
	}
	defer func() { _ = zw.Close() }() // ends its goroutines after an error; else it is closed already
	out, err := storage.NewWritable(zw, []cid.Cid{im.cid}, car.WriteAsCarV1(true))
	if err != nil {
		return fmt.Errorf("write .flist: %w", err)
	}
	put := func(c cid.Cid, id chunk.ID) error {
		data, err := src.Get(ctx, id)
		if err != nil {
			return fmt.Errorf("write .flist: chunk %s: %w", id, err)
		}
		if err := out.Put(ctx, c.KeyString(), data); err != nil {
			return fmt.Errorf("write .flist: %w", err)
		}
		return nil
	}
	for i, id := range im.MetadataChunks(opts.Digests) {
		c := id.CID()
		if i == 0 {
			c = im.cid
		}
		if err := put(c, id); err != nil {
			return err
		}
	}
	for i := range uint32(im.NumChunks()) {
		if !opts.Data {
			break
		}
		id, _ := im.Chunk(i)
		if err := put(id.CID(), id); err != nil {
			return err
		}
	}
	if err := out.Finalize(); err != nil {
		return fmt.Errorf("write .flist: %w", err)
	}
	if err := zw.Close(); err != nil {
		return fmt.Errorf("write .flist: %w", err)
	}
	return nil
}

// fileWindow is the zstd window of a .flist file, in bytes: readers need not
// take more memory than that.
const fileWindow = 8 << 20

// ReadFile reads a .flist file, verifies every block and puts it into sink,
// and returns the flist CID the file is of. The tables are not checked: Load
// does that. Errors: ErrNotFlist, *chunk.CorruptError, *VersionError, those
// of r and of sink; a file cut short gives io.ErrUnexpectedEOF.
func ReadFile(ctx context.Context, r io.Reader, sink chunk.Sink) (cid.Cid, error) {
	zr, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(fileWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return cid.Undef, fmt.Errorf("read .flist: %w", err)
	}
	defer zr.Close()
	blocks, err := car.NewBlockReader(zr, car.WithTrustedCAR(true), // this function verifies
		car.MaxAllowedHeaderSize(1<<10), car.MaxAllowedSectionSize(chunk.MaxSize+64))
	if err != nil {
		return cid.Undef, notFile(err)
	}
	if blocks.Version != 1 || len(blocks.Roots) != 1 {
		return cid.Undef, fmt.Errorf("read .flist: %w: CAR version %d with %d roots, want 1 and 1", ErrNotFlist, blocks.Version, len(blocks.Roots))
	}
	root := blocks.Roots[0]
	if err := checkCID(root); err != nil {
		return cid.Undef, fmt.Errorf("read .flist: %w", err)
	}
	missing, err := readBlocks(ctx, blocks, root, sink)
	if err != nil {
		return cid.Undef, fmt.Errorf("read .flist: %w", err)
	}
	if missing > 0 {
		return cid.Undef, fmt.Errorf("read .flist: %d metadata chunks are not in the file: %w", missing, io.ErrUnexpectedEOF)
	}
	return root, nil
}

// readBlocks keeps every block and counts the chunks a mount needs that were
// not among them. The root block comes first.
func readBlocks(ctx context.Context, blocks *car.BlockReader, root cid.Cid, sink chunk.Sink) (missing int, err error) {
	var wanted map[chunk.ID]bool
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		b, err := blocks.Next()
		if errors.Is(err, io.EOF) && wanted != nil {
			return len(wanted), nil
		}
		if err != nil {
			return 0, notFile(err)
		}
		id, err := chunk.FromCID(b.Cid())
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrNotFlist, err)
		}
		if err := chunk.Verify(id, b.RawData()); err != nil {
			return 0, err
		}
		if wanted == nil {
			if !b.Cid().Equals(root) {
				return 0, fmt.Errorf("%w: the first block is not the root block", ErrNotFlist)
			}
			r, err := DecodeRoot(b.RawData())
			if err != nil {
				return 0, err
			}
			wanted = map[chunk.ID]bool{}
			for _, id := range r.MetadataChunks(false) {
				wanted[id] = true
			}
		}
		delete(wanted, id)
		if err := sink.Put(ctx, chunk.PackAs(id, b.RawData())); err != nil {
			return 0, fmt.Errorf("keep chunk %s: %w", id, err)
		}
	}
}

// notFile tells a file that was cut short from one that is something else.
func notFile(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("file ends too early: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w: %w", ErrNotFlist, err)
}
