package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/pack"
	"github.com/flistnode/flistnode/node/api"
)

// Pack implements api.Maker. When it returns the CID, every chunk is on the
// disk. A pack that fails leaves chunks nobody refers to and nothing else;
// packing again finds them.
func (n *Node) Pack(ctx context.Context, req api.PackRequest, progress func(api.PackProgress)) (api.PackResult, error) {
	if err := checkDir(req.Dir); err != nil {
		return api.PackResult{}, err
	}
	if err := checkName(req.Name); err != nil {
		return api.PackResult{}, err
	}
	if within(n.cfg.Data, req.Dir) {
		return api.PackResult{}, fmt.Errorf("%w: %s is inside the node's data directory %s", api.ErrInvalid, req.Dir, n.cfg.Data)
	}
	defer n.announcer.holdBack()()
	start := time.Now()
	sink := &countingSink{store: n.store}
	res, err := pack.Dir(ctx, req.Dir, sink, n.packOptions(req, sink, progress))
	if err != nil {
		return api.PackResult{}, packError(ctx, err)
	}
	if err := n.store.Sync(); err != nil {
		return api.PackResult{}, fmt.Errorf("write packed chunks to disk: %w", err)
	}
	if err := n.pin(res.CID, req.Name, api.HowPacked); err != nil {
		return api.PackResult{}, err
	}
	out := api.PackResult{
		CID: res.CID.String(), Entries: uint64(res.Entries), Files: uint64(res.Files), Bytes: uint64(res.Bytes),
		StoredBytes: sink.bytes.Load(), NewBytes: sink.newBytes.Load(), Chunks: uint64(res.Chunks),
		NewChunks: sink.newChunks.Load(), Seconds: time.Since(start).Seconds(),
		MetadataBytes: sink.bytes.Load() - uint64(res.StoredBytes),
	}
	for _, p := range res.Unreadable[:min(len(res.Unreadable), api.MaxListed)] {
		out.Unreadable = append(out.Unreadable, api.Problem{Path: p.Path, Error: p.Err.Error()})
	}
	n.log.Info("packed", "flist", out.CID, "dir", req.Dir, "entries", out.Entries, "bytes", out.Bytes,
		"new_bytes", out.NewBytes, "took", time.Since(start))
	return out, nil
}

func (n *Node) packOptions(req api.PackRequest, sink *countingSink, progress func(api.PackProgress)) pack.Options {
	opts := pack.Options{
		Workers: req.Workers, Exclude: req.Exclude, Skip: []string{n.cfg.Data}, OneFileSystem: req.OneFileSystem,
		Reproducible: req.Reproducible, SourceDateEpoch: req.SourceDateEpoch, IgnoreUnreadable: req.IgnoreUnreadable,
		Annotations: req.Annotations, TempDir: n.tempDir(), Log: n.log,
	}
	if progress != nil {
		opts.Progress = func(p pack.Progress) {
			progress(api.PackProgress{Entries: uint64(p.Entries), Files: uint64(p.Files), Bytes: uint64(p.Bytes),
				Stored: sink.newBytes.Load(), Chunks: uint64(p.Chunks)})
		}
	}
	return opts
}

func packError(ctx context.Context, err error) error {
	var unreadable *pack.UnreadableError
	if errors.As(err, &unreadable) && ctx.Err() == nil {
		return api.WithCode(api.Unreadable, err)
	}
	return err
}

// countingSink puts chunks into the store and counts those it did not have.
type countingSink struct {
	store                      *chunkstore.Store
	bytes, newBytes, newChunks atomic.Uint64 // bytes as stored
}

var (
	_ chunk.BatchSink = (*countingSink)(nil)
	_ pack.Holder     = (*countingSink)(nil)
)

// PackedSize implements pack.Holder.
func (s *countingSink) PackedSize(ctx context.Context, id chunk.ID) (size int, held bool, err error) {
	size, held, err = s.store.PackedSize(ctx, id)
	if held {
		s.bytes.Add(uint64(size))
	}
	return size, held, err
}

// Put implements chunk.Sink for chunks whose ID was computed in this process.
func (s *countingSink) Put(ctx context.Context, p chunk.Packed) error {
	return s.PutAll(ctx, []chunk.Packed{p})
}

// PutAll implements chunk.BatchSink.
func (s *countingSink) PutAll(ctx context.Context, ps []chunk.Packed) error {
	for _, p := range ps {
		s.bytes.Add(uint64(len(p.Bytes)))
	}
	added, err := s.store.PutAllTrusted(ctx, ps)
	s.newBytes.Add(uint64(added.Bytes))
	s.newChunks.Add(uint64(added.Chunks))
	return err
}

// Import implements api.Maker.
func (n *Node) Import(ctx context.Context, r io.Reader) (string, error) {
	root, err := flist.ReadFile(ctx, r, &countingSink{store: n.store}) // it verifies before it packs
	if errors.Is(err, io.ErrUnexpectedEOF) && ctx.Err() == nil {
		return "", api.WithCode(api.Corrupt, err) // cut short
	}
	if err != nil {
		return "", err
	}
	im, err := n.load(ctx, root.String()) // the tables may be malformed
	if err != nil {
		return "", err
	}
	im.Close()
	if err := n.store.Sync(); err != nil {
		return "", fmt.Errorf("write imported chunks to disk: %w", err)
	}
	return root.String(), n.pin(root, "", api.HowImported)
}

// Export implements api.Taker. What is not here is fetched.
func (n *Node) Export(ctx context.Context, name string, digests, data bool, w io.Writer) error {
	im, err := n.load(ctx, name)
	if err != nil {
		return err
	}
	defer im.Close()
	return flist.WriteFile(ctx, w, n.bulk(im.CID()), im, flist.FileOptions{Digests: digests, Data: data})
}

// checkDir refuses a directory that would mean something else to the node than
// to who asks.
func checkDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%w: directory %q is not an absolute path", api.ErrInvalid, dir)
	}
	return nil
}

func checkName(name string) error {
	if len(name) > maxNameBytes {
		return fmt.Errorf("%w: name of %d bytes is longer than %d", api.ErrInvalid, len(name), maxNameBytes)
	}
	return nil
}

// within reports whether path is dir or below it, by what they are on disk.
func within(dir, path string) bool {
	top, err := os.Stat(dir)
	if err != nil {
		return false
	}
	path = filepath.Clean(path)
	for { // what is not there yet will be where its parent is
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			path = real
			break
		}
		if path == "/" {
			return false
		}
		path = filepath.Dir(path)
	}
	for {
		if st, err := os.Stat(path); err == nil && os.SameFile(top, st) {
			return true
		}
		up := filepath.Dir(path)
		if up == path {
			return false
		}
		path = up
	}
}
