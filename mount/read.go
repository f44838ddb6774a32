package mount

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Open says that files need not be opened: the kernel then opens them itself,
// keeps their pages, and stops asking.
func (f *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.stats.count(opOpen)
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		return f.refuse()
	}
	if f.noOpen {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// Read returns in.Size bytes from in.Offset on, fewer only at the end of the
// file. The bytes go to the kernel straight from the Source's slices.
func (f *fileSystem) Read(gone <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.stats.count(opRead)
	ino, ok := f.inode(in.NodeId)
	if !ok {
		return nil, statusNoInode
	}
	var few [12]flist.Piece // a READ of 1 MiB meets about nine chunks
	pieces, size := f.pieces(few[:0], ino, in.Offset, min(in.Size, maxRead))
	f.ahead.read(f.reads, ino, in.Offset, size)
	patience := f.opts.ReadTimeout
	for _, p := range pieces {
		if p.Hole {
			continue
		}
		f.touched.add(p.Chunk)
		f.near.read(f.reads, p.Chunk)
		if f.stalls.recent(p.Chunk) {
			patience = min(patience, stallPatience)
		}
	}
	r := newReading(f.reads, gone, patience)
	defer r.end()
	parts, err := f.fetch(r, pieces)
	if err != nil {
		status := f.failed(r, ino, err)
		if patience == f.opts.ReadTimeout {
			f.stalled(r, pieces, parts)
		}
		return nil, status
	}
	f.stats.bytes.Add(size)
	return reply(parts, buf), fuse.OK
}

// pieces appends the pieces of a range of a file to list and returns how many
// bytes they are.
func (f *fileSystem) pieces(list []flist.Piece, ino flist.Inode, off uint64, size uint32) ([]flist.Piece, uint64) {
	left := uint64(size)
	for left > 0 {
		p, ok := f.im.PieceAt(ino, off)
		if !ok {
			break
		}
		p.Length = min(p.Length, left)
		list = append(list, p)
		off += p.Length
		left -= p.Length
	}
	return list, uint64(size) - left
}

// parallel bounds the chunks one READ waits for at a time.
const parallel = 16

// fetch returns the bytes of each piece. The slices are shared.
func (f *fileSystem) fetch(r *reading, pieces []flist.Piece) ([][]byte, error) {
	parts := make([][]byte, len(pieces))
	if len(pieces) == 1 {
		var err error
		parts[0], err = f.piece(r, pieces[0])
		return parts, err
	}
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, p := range pieces {
		if p.Hole {
			parts[i] = zeros[:p.Length]
			continue
		}
		g.Go(func() error {
			err := flist.Guard(func() (err error) {
				parts[i], err = f.piece(r, p)
				return err
			})
			if err != nil {
				r.end() // the others are of no use now
			}
			return err
		})
	}
	return parts, g.Wait() // the first error, which is the one that counts
}

// zeros is what holes are made of.
var zeros [maxRead]byte

// piece returns the bytes of one piece.
func (f *fileSystem) piece(ctx context.Context, p flist.Piece) ([]byte, error) {
	if p.Hole {
		return zeros[:p.Length], nil
	}
	id, size := f.im.Chunk(p.Chunk)
	f.stats.gets.Add(1)
	data, err := f.src.Get(ctx, id)
	if err == nil && len(data) != size {
		err = &chunk.CorruptError{ID: id, Reason: fmt.Sprintf("content is %d bytes, the flist says %d", len(data), size)}
	}
	if err != nil {
		return nil, &pieceError{index: p.Chunk, id: id, off: p.Offset, err: err}
	}
	f.stalls.clear(p.Chunk)
	return data[p.ChunkOffset:][:p.Length], nil
}

// pieceError says which chunk a read failed for.
type pieceError struct {
	index uint32
	id    chunk.ID
	off   uint64 // in the file
	err   error
}

func (e *pieceError) Error() string { return fmt.Sprintf("chunk %s: %v", e.id, e.err) }
func (e *pieceError) Unwrap() error { return e.err }

// stalled remembers all chunks that did not come in time. The error names one
// of them, and the kernel may ask for another next.
func (f *fileSystem) stalled(r *reading, pieces []flist.Piece, parts [][]byte) {
	if time.Now().Before(r.deadline) || r.interrupted() || f.reads.Err() != nil {
		return
	}
	for i, p := range pieces {
		if parts[i] == nil && !p.Hole {
			f.stalls.add(p.Chunk)
		}
	}
}

// failed counts and logs why a read failed, once for a chunk and a while, and
// translates it.
func (f *fileSystem) failed(r *reading, ino flist.Inode, err error) fuse.Status {
	switch {
	case r.interrupted():
		f.stats.interrupted.Add(1)
		return statusOf(errInterrupted)
	case f.reads.Err() != nil:
		return statusOf(f.reads.Err())
	}
	f.stats.failed.Add(1)
	if p := (*pieceError)(nil); errors.As(err, &p) && f.stalls.add(p.index) {
		f.log.Warn("read failed: a chunk is not to be had", "path", string(f.im.Path(ino)), "offset", p.off,
			"chunk", p.id.String(), "err", p.err)
	}
	if status := statusOf(err); status != fuse.Status(unix.EINTR) && status != fuse.Status(unix.ENOTCONN) {
		return status
	}
	return fuse.EIO // the Source was cancelled, not the reader
}

// maxParts bounds the slices of one writev to the kernel (IOV_MAX is 1024).
const maxParts = 512

// reply hands parts to the kernel without copying where it can.
func reply(parts [][]byte, buf []byte) fuse.ReadResult {
	switch {
	case len(parts) == 0:
		return fuse.ReadResultData(nil)
	case len(parts) == 1:
		return fuse.ReadResultData(parts[0])
	case len(parts) <= maxParts:
		return fuse.ReadResultVector(parts)
	}
	n := 0
	for _, p := range parts {
		n += copy(buf[n:], p)
	}
	return fuse.ReadResultData(buf[:n])
}

// Lseek finds data and holes (SEEK_DATA, SEEK_HOLE); the kernel does the rest
// itself.
func (f *fileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	f.stats.count(opLseek)
	ino, ok := f.inode(in.NodeId)
	if !ok {
		return statusNoInode
	}
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	end, hole, ok := f.im.Run(ino, in.Offset)
	switch {
	case !ok:
		return statusNoData
	case hole == (in.Whence == unix.SEEK_HOLE):
		out.Offset = in.Offset
		return fuse.OK
	case in.Whence == unix.SEEK_DATA: // in a hole: is there data behind it?
		if _, _, more := f.im.Run(ino, end); !more {
			return statusNoData
		}
	}
	out.Offset = end
	return fuse.OK
}
