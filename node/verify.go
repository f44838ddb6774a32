package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

// Verify implements api.Checker. A chunk found corrupt is dropped by the
// store, so that the next read fetches it again.
func (n *Node) Verify(ctx context.Context, req api.VerifyRequest, progress func(api.VerifyProgress)) (api.VerifyResult, error) {
	start := time.Now()
	v := &verification{n: n, progress: progress}
	var err error
	switch {
	case req.FList != "":
		err = v.flist(ctx, req)
	case req.Digests:
		err = fmt.Errorf("%w: digests of files can be checked for an flist only", api.ErrInvalid)
	default:
		err = v.store(ctx)
	}
	if err != nil {
		return api.VerifyResult{}, err
	}
	v.res.Seconds = time.Since(start).Seconds()
	return v.res, nil
}

// verification is one call of Verify.
type verification struct {
	n        *Node
	progress func(api.VerifyProgress)

	mu    sync.Mutex
	res   api.VerifyResult
	total uint64
	told  time.Time
}

func (v *verification) flist(ctx context.Context, req api.VerifyRequest) error {
	im, err := v.n.load(ctx, req.FList)
	if err != nil {
		return err
	}
	defer im.Close()
	f := newFetch(v.n, im, nil) // for its list of distinct chunks
	f.add(im.MetadataChunks(true), metadataSizes(im))
	f.addData(im)
	v.total = uint64(len(f.ids))
	if err := v.chunks(ctx, func(ctx context.Context, out chan<- chunk.ID) error {
		for _, id := range f.ids {
			if err := send(ctx, out, id); err != nil {
				return err
			}
		}
		return nil
	}); err != nil || !req.Digests {
		return err
	}
	return v.digests(ctx, im)
}

func (v *verification) store(ctx context.Context) error {
	st, err := v.n.store.Stats(ctx)
	if err != nil {
		return err
	}
	v.total = uint64(st.Chunks)
	return v.chunks(ctx, func(ctx context.Context, out chan<- chunk.ID) error {
		return v.n.store.Iterate(ctx, func(id chunk.ID, _ int) error { return send(ctx, out, id) })
	})
}

func send[T any](ctx context.Context, out chan<- T, v T) error {
	select {
	case out <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// chunks reads every chunk that list sends, straight from the store.
func (v *verification) chunks(ctx context.Context, list func(context.Context, chan<- chunk.ID) error) error {
	g, ctx := errgroup.WithContext(ctx)
	ids := make(chan chunk.ID, fetchParallel)
	g.Go(func() error {
		defer close(ids)
		return list(ctx, ids)
	})
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for id := range ids {
				data, err := v.n.store.Get(ctx, id)
				if err := v.count(id, len(data), err); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// count notes what became of a chunk. It returns what is wrong with the store
// as a whole.
func (v *verification) count(id chunk.ID, size int, err error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var corrupt *chunk.CorruptError
	switch {
	case err == nil:
		v.res.Checked++
		v.res.Bytes += uint64(size)
	case errors.As(err, &corrupt):
		v.res.Checked++
		v.res.Corrupt++
		v.res.CorruptChunks = list(v.res.CorruptChunks, api.Problem{Path: id.String(), Error: corrupt.Reason})
	case errors.Is(err, chunk.ErrNotFound):
		v.res.Missing++
		v.res.MissingChunks = list(v.res.MissingChunks, id.String())
	default:
		return err
	}
	if v.progress != nil && time.Since(v.told) >= tellEvery {
		v.told = time.Now()
		v.progress(api.VerifyProgress{Chunks: v.res.Checked + v.res.Missing, TotalChunks: v.total, Bytes: v.res.Bytes})
	}
	return nil
}

func list[T any](l []T, v T) []T {
	if len(l) < api.MaxListed {
		l = append(l, v)
	}
	return l
}

// digests hashes every file whose chunks are here and compares it with the
// digest recorded when it was packed.
func (v *verification) digests(ctx context.Context, im *flist.Image) error {
	d, err := im.Digests(ctx, v.n.working(im.CID()))
	if err != nil {
		return fmt.Errorf("digests of flist %s: %w", im.CID(), err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range im.NumInodes() {
		ino := flist.Inode(i)
		sum, ok := d.Of(ino)
		if !ok {
			continue
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return flist.Guard(func() error { return v.file(gctx, im, ino, sum) }) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (v *verification) file(ctx context.Context, im *flist.Image, ino flist.Inode, want [32]byte) error {
	h := sha256.New()
	err := copyFile(ctx, im, ino, local{v.n}, h)
	var corrupt *chunk.CorruptError
	if errors.Is(err, chunk.ErrNotFound) {
		return nil // counted among the missing chunks
	}
	if err != nil && !errors.As(err, &corrupt) {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.res.Files++
	reason := ""
	if err != nil {
		reason = err.Error()
	} else if got := h.Sum(nil); !bytes.Equal(got, want[:]) {
		reason = fmt.Sprintf("content hashes to %x, recorded is %x", got, want)
	}
	if reason != "" {
		v.res.WrongFiles++
		v.res.WrongDigests = list(v.res.WrongDigests, api.Problem{Path: string(im.Path(ino)), Error: reason})
	}
	return nil
}
