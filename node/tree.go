package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

// List implements api.Reader.
func (n *Node) List(ctx context.Context, name, path string, opts api.ListOptions, each func(api.Entry) error) error {
	im, ino, err := n.resolve(ctx, name, path)
	if err != nil {
		return err
	}
	defer im.Close()
	var digests *flist.Digests
	if opts.Digests {
		if digests, err = im.Digests(ctx, n.working(im.CID())); err != nil {
			return fmt.Errorf("digests of flist %s: %w", im.CID(), err)
		}
	}
	send := func(path []byte, ino flist.Inode) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return each(entry(im, digests, path, ino))
	}
	switch {
	case opts.Self || !im.Attr(ino).IsDir():
		return send(cleanPath(path), ino)
	case opts.Recursive:
		return im.WalkFrom(ino, func(path []byte, below flist.Inode) error {
			if below == ino {
				return nil // directories have one name: this is the top
			}
			return send(path, below)
		})
	}
	return listDir(im, ino, send)
}

func listDir(im *flist.Image, dir flist.Inode, send func([]byte, flist.Inode) error) error {
	path := im.Path(dir)
	if len(path) > 1 {
		path = append(path, '/')
	}
	first, end := im.Entries(dir)
	for i := first; i < end; i++ {
		name, ino := im.Entry(i)
		if err := send(append(path[:len(path):len(path)], name...), ino); err != nil {
			return err
		}
	}
	return nil
}

// Stat implements api.Reader.
func (n *Node) Stat(ctx context.Context, name, path string) (api.Entry, error) {
	im, ino, err := n.resolve(ctx, name, path)
	if err != nil {
		return api.Entry{}, err
	}
	defer im.Close()
	var digests *flist.Digests
	if im.Attr(ino).IsRegular() {
		if d, err := im.Digests(ctx, local{n}); err == nil {
			digests = d
		}
	}
	return entry(im, digests, cleanPath(path), ino), nil
}

// resolve loads an flist, which the caller closes, and finds a path in it.
func (n *Node) resolve(ctx context.Context, name, path string) (*flist.Image, flist.Inode, error) {
	im, err := n.load(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	var ino flist.Inode
	if err := flist.Guard(func() (err error) {
		ino, err = im.Resolve(cleanPath(path))
		return err
	}); err != nil {
		im.Close()
		return nil, 0, fmt.Errorf("%q in flist %s: %w", path, im.CID(), err)
	}
	return im, ino, nil
}

// cleanPath returns path with one slash before each name and none at the end;
// "/" is the root. Dots are names like any other.
func cleanPath(path string) []byte {
	clean := make([]byte, 0, len(path)+1)
	for i := 0; i < len(path); i++ {
		if path[i] == '/' {
			continue
		}
		if i == 0 || path[i-1] == '/' {
			clean = append(clean, '/')
		}
		clean = append(clean, path[i])
	}
	if len(clean) == 0 {
		return []byte{'/'}
	}
	return clean
}

// entry describes the inode ino under one of its names. digests may be nil.
func entry(im *flist.Image, digests *flist.Digests, path []byte, ino flist.Inode) api.Entry {
	a := im.Attr(ino)
	e := api.Entry{
		Path: string(path), Type: typeName(a.Mode), Mode: a.Mode & flist.ModePerm, UID: a.UID, GID: a.GID,
		Size: a.Size, Nlink: a.Nlink, Inode: uint32(ino), Mtime: api.Time(a.Mtime), Rdev: a.Rdev,
	}
	if a.HasBtime {
		btime := api.Time(a.Btime)
		e.Btime = &btime
	}
	if a.IsSymlink() {
		e.Target = string(im.Target(ino))
	}
	for name, value := range im.Xattrs(ino) {
		e.Xattrs = append(e.Xattrs, api.Xattr{Name: string(name), Value: value})
	}
	if digests != nil {
		if sum, ok := digests.Of(ino); ok {
			e.Digest = hex.EncodeToString(sum[:])
		}
	}
	return e
}

var typeNames = map[uint32]string{
	flist.ModeRegular: api.TypeFile, flist.ModeDir: api.TypeDir, flist.ModeSymlink: api.TypeSymlink,
	flist.ModeFIFO: api.TypeFIFO, flist.ModeSocket: api.TypeSocket, flist.ModeChar: api.TypeChar,
	flist.ModeBlock: api.TypeBlock,
}

func typeName(mode uint32) string { return typeNames[mode&flist.ModeType] }

// Chunk implements api.Reader.
func (n *Node) Chunk(ctx context.Context, name string, id chunk.ID) ([]byte, error) {
	root, err := parseCID(name)
	if err != nil {
		return nil, err
	}
	return n.reading(root).Get(ctx, id)
}

// Cat implements api.Reader.
func (n *Node) Cat(ctx context.Context, name, path string, w io.Writer) error {
	im, ino, err := n.resolve(ctx, name, path)
	if err != nil {
		return err
	}
	defer im.Close()
	if a := im.Attr(ino); !a.IsRegular() {
		return fmt.Errorf("%w: %q is a %s, not a file", api.ErrInvalid, path, typeName(a.Mode))
	}
	if err := copyFile(ctx, im, ino, n.working(im.CID()), w); err != nil {
		return fmt.Errorf("read %q of flist %s: %w", path, im.CID(), err)
	}
	return nil
}

// catAhead is how many pieces of a file are fetched ahead of the writing.
const catAhead = 16

// copyFile writes a file's content to w, holes as zeros. Chunks are fetched
// some ahead.
func copyFile(ctx context.Context, im *flist.Image, ino flist.Inode, src chunk.Source, w io.Writer) error {
	type part struct {
		flist.Piece
		data chan []byte // nil for a hole
	}
	g, ctx := errgroup.WithContext(ctx)
	parts := make(chan part, catAhead)
	fetch := func() error {
		for p, ok := im.PieceAt(ino, 0); ok; p, ok = im.PieceAt(ino, p.Offset+p.Length) {
			next := part{Piece: p}
			if !p.Hole {
				next.data = make(chan []byte, 1)
				g.Go(func() error {
					data, err := readPiece(ctx, im, src, p)
					next.data <- data
					return err
				})
			}
			select {
			case parts <- next:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}
	g.Go(func() error {
		defer close(parts)
		return flist.Guard(fetch)
	})
	g.Go(func() error {
		for p := range parts {
			if p.Hole {
				if err := writeZeros(ctx, w, p.Length); err != nil {
					return err
				}
				continue
			}
			data := <-p.data
			if data == nil {
				return nil // whoever failed to get it says why
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// readPiece returns the bytes of a piece that is no hole.
func readPiece(ctx context.Context, im *flist.Image, src chunk.Source, p flist.Piece) ([]byte, error) {
	var id chunk.ID
	var size int
	if err := flist.Guard(func() error {
		id, size = im.Chunk(p.Chunk)
		return nil
	}); err != nil {
		return nil, err
	}
	data, err := src.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(data) != size {
		return nil, &chunk.CorruptError{ID: id, Reason: fmt.Sprintf("it has %d bytes, the flist says %d", len(data), size)}
	}
	return data[p.ChunkOffset:][:p.Length], nil
}

var zeros [64 << 10]byte

func writeZeros(ctx context.Context, w io.Writer, n uint64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := min(n, uint64(len(zeros)))
		if _, err := w.Write(zeros[:part]); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
