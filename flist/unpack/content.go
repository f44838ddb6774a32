package unpack

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"golang.org/x/sys/unix"
)

// file is a regular file that is being filled. The walker and every write
// still to be done hold it; who lets go last restores its attributes.
type file struct {
	node
	holders atomic.Int32
	failed  atomic.Bool
}

// write is a run of bytes of one chunk that goes into a file.
type write struct {
	f     *file
	piece flist.Piece
}

// task is what one worker does in a row: pieces of one file, or of small
// files that share a chunk, which is then fetched once.
type task struct {
	writes []write
	bytes  uint64
}

// A task is at most this large. Large files are so spread over all workers.
const (
	maxTaskBytes  = 1 << 20
	maxTaskWrites = 64
)

// makeFile makes a regular file and queues its content.
func (r *run) makeFile(ctx context.Context, l *level, name string, ino flist.Inode, attr flist.Attr) error {
	if err := r.takeToken(ctx); err != nil {
		return err
	}
	f := &file{node: node{fd: -1, ino: ino}}
	f.holders.Store(1)
	err := r.create(l.fd, name, "create", func() (err error) {
		f.fd, err = openat(l.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
		return err
	})
	if err != nil {
		<-r.open
		return err
	}
	if err := r.queue(ctx, f, attr.Size); err != nil {
		r.giveUp(f)
		return err
	}
	return r.release(f)
}

// takeToken waits until one more file may be opened.
func (r *run) takeToken(ctx context.Context) error {
	select {
	case r.open <- struct{}{}:
		return nil
	default:
	}
	// The batch may be what holds the files that are open.
	if err := r.flush(ctx); err != nil {
		return err
	}
	select {
	case r.open <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// queue adds the pieces of f to tasks. Holes are left out; one at the end
// sets the size.
func (r *run) queue(ctx context.Context, f *file, size uint64) error {
	for off := uint64(0); off < size; {
		p, ok := r.im.PieceAt(f.ino, off)
		if !ok || p.Length == 0 {
			return fmt.Errorf("the flist has no content at offset %d of %d", off, size)
		}
		off += p.Length
		if !p.Hole {
			if err := r.add(ctx, write{f, p}); err != nil {
				return err
			}
			continue
		}
		r.holes.Add(int64(p.Length))
		if off == size {
			if err := unix.Ftruncate(f.fd, int64(size)); err != nil {
				return fmt.Errorf("set size %d: %w", size, err)
			}
		}
	}
	return nil
}

func (r *run) add(ctx context.Context, w write) error {
	if b := r.batch; b != nil {
		last := b.writes[len(b.writes)-1]
		related := last.f == w.f || last.piece.Chunk == w.piece.Chunk
		if !related || len(b.writes) == maxTaskWrites || b.bytes+w.piece.Length > maxTaskBytes {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
	}
	if r.batch == nil {
		r.batch = &task{}
	}
	w.f.holders.Add(1)
	r.batch.writes = append(r.batch.writes, w)
	r.batch.bytes += w.piece.Length
	return nil
}

// flush hands the batch to the workers.
func (r *run) flush(ctx context.Context) error {
	if r.batch == nil {
		return nil
	}
	select {
	case r.tasks <- r.batch:
		r.batch = nil
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// abandon lets go of the files of a task that will not be done.
func (r *run) abandon(t *task) {
	if t == nil {
		return
	}
	for _, w := range t.writes {
		r.giveUp(w.f)
	}
}

// work does tasks until there are no more. After an error, its own or
// another's, it only lets go of their files.
func (r *run) work(ctx context.Context) (err error) {
	for t := range r.tasks {
		if err != nil || ctx.Err() != nil {
			r.abandon(t)
			continue
		}
		err = r.do(ctx, t)
	}
	return err
}

func (r *run) do(ctx context.Context, t *task) error {
	var data []byte
	have := int64(-1)
	for i, w := range t.writes {
		var err error
		if c := int64(w.piece.Chunk); c != have {
			data, err = r.fetch(ctx, w.piece.Chunk)
			have = c
		}
		if err == nil {
			err = w.put(data)
		}
		if err != nil {
			path := r.path(w.f.ino)
			r.abandon(&task{writes: t.writes[i:]})
			return fmt.Errorf("%s: %w", path, err)
		}
		r.bytes.Add(int64(w.piece.Length))
		if err := r.release(w.f); err != nil {
			r.abandon(&task{writes: t.writes[i+1:]})
			return err
		}
	}
	return nil
}

// fetch gets a chunk and makes sure that it is as long as the image says.
func (r *run) fetch(ctx context.Context, i uint32) ([]byte, error) {
	isPack := uint64(i) < r.im.Root().Counts.Packs
	if data := r.packs.get(i); isPack && data != nil {
		return data, nil
	}
	id, size := r.im.Chunk(i)
	data, err := r.src.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("get chunk %s: %w", id, err)
	}
	if len(data) != size {
		return nil, &chunk.CorruptError{ID: id, Reason: fmt.Sprintf("content is %d bytes, the flist says %d", len(data), size)}
	}
	if isPack && size <= maxCachedBytes {
		r.packs.add(i, data)
	}
	return data, nil
}

func (w write) put(data []byte) error {
	from, end := uint64(w.piece.ChunkOffset), uint64(w.piece.ChunkOffset)+w.piece.Length
	if end > uint64(len(data)) {
		return fmt.Errorf("the flist wants bytes %d to %d of a chunk of %d", from, end, len(data))
	}
	data = data[from:end]
	for off := int64(w.piece.Offset); len(data) > 0; {
		n, err := retry(func() (int, error) { return unix.Pwrite(w.f.fd, data, off) })
		if err != nil {
			return fmt.Errorf("write at offset %d: %w", off, err)
		}
		data, off = data[n:], off+int64(n)
	}
	return nil
}

// giveUp lets go of a file that will not be whole.
func (r *run) giveUp(f *file) {
	f.failed.Store(true)
	_ = r.release(f) // there is an error already
}

// release lets go of a file. The last holder restores its attributes, unless
// the file failed, and closes it.
func (r *run) release(f *file) (err error) {
	if f.holders.Add(-1) > 0 {
		return nil
	}
	if !f.failed.Load() {
		r.files.Add(1)
		err = r.restore(f.node)
	}
	if closeErr := unix.Close(f.fd); err == nil && closeErr != nil {
		err = fmt.Errorf("%s: close: %w", r.path(f.ino), closeErr)
	}
	<-r.open
	return err
}
