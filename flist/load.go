package flist

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Load gets an flist's root block and tables from src and checks every
// reference in them once. Memory is bounded by MaxTableBytes and, for what it
// keeps, about 1.3 times the size of the tables. Errors: ErrNotFlist,
// *VersionError, *FormatError, or those of src.
func Load(ctx context.Context, src chunk.Source, root cid.Cid) (*Image, error) {
	return load(ctx, src, root, heapMemory)
}

// LoadMapped is Load that keeps the tables in a file in dir, which has no name
// and goes with the Image: what is not used can leave memory, and no garbage
// collector has to make room for it. The error matches ErrTableFile if there
// can be no such file. A page of the file that the disk does not give back
// later is a fault (see debug.SetPanicOnFault).
func LoadMapped(ctx context.Context, src chunk.Source, root cid.Cid, dir string) (*Image, error) {
	return load(ctx, src, root, mappedMemory(dir))
}

func load(ctx context.Context, src chunk.Source, root cid.Cid, open func(size int64) (*memory, error)) (*Image, error) {
	r, err := LoadRoot(ctx, src, root)
	if err != nil {
		return nil, err
	}
	// Memory is taken when each table has shown its first chunk, so that a
	// root block alone costs nothing.
	tables := r.mountTables(src)
	if err := each(ctx, len(tables), func(ctx context.Context, i int) (err error) {
		tables[i].first, err = tables[i].get(ctx, 0)
		return err
	}); err != nil {
		return nil, err
	}
	l := r.layout()
	mem, err := open(l.size)
	if err != nil {
		return nil, err
	}
	im := &Image{cid: root, root: r, mem: mem}
	err = fetchTables(ctx, tables, func(table int, data []byte, off int64) error {
		return mem.write(data, l.sections[table].off+off)
	})
	if err == nil {
		if err = im.check(&l, im.cut(&l)); err != nil {
			err = fmt.Errorf("%s: %w", root, err)
		}
	}
	if err = errors.Join(err, mem.seal()); err != nil {
		im.Close()
		return nil, err
	}
	return im, nil
}

// LoadRoot gets and decodes the root block alone.
func LoadRoot(ctx context.Context, src chunk.Source, root cid.Cid) (*Root, error) {
	if err := checkCID(root); err != nil {
		return nil, err
	}
	id, err := chunk.FromCID(root)
	if err != nil {
		return nil, err
	}
	block, err := src.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("root block of flist %s: %w", root, err)
	}
	r, err := DecodeRoot(block)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	return r, nil
}

// table is one table while it is fetched.
type table struct {
	Section
	name  string
	fetch func(ctx context.Context, id chunk.ID) ([]byte, error)
	done  func(data []byte) // with what fetch gave
	first []byte            // its first chunk; nil if it is empty or was written
}

// mountTables returns the tables Load needs, as in mountSections.
func (r *Root) mountTables(src chunk.Source) []table {
	tables := make([]table, len(mountSections))
	for i, name := range mountSections {
		tables[i] = r.table(src, name)
	}
	return tables
}

func (r *Root) table(src chunk.Source, name string) table {
	t := table{Section: r.Sections[name], name: name, fetch: src.Get, done: func([]byte) {}}
	if owner, ok := src.(chunk.Owner); ok { // or each load makes garbage of its size
		t.fetch, t.done = owner.GetOwned, chunk.Recycle
	}
	return t
}

// get returns the i-th chunk, nil of an empty table.
func (t *table) get(ctx context.Context, i int) ([]byte, error) {
	if t.Size == 0 {
		return nil, nil
	}
	data, err := t.fetch(ctx, t.Chunks[i].ID())
	if err != nil {
		return nil, fmt.Errorf("%s table, chunk %s: %w", t.name, t.Chunks[i].ID(), err)
	}
	if want := min(t.Size-uint64(i)*sectionChunk, sectionChunk); uint64(len(data)) != want {
		return nil, malformed(t.name, "chunk %d has %d bytes, want %d", i, len(data), want)
	}
	return data, nil
}

// fetchTables writes the tables, whose first chunks are there, each chunk as
// it comes. It calls write from several goroutines; write may not keep data.
func fetchTables(ctx context.Context, tables []table, write func(table int, data []byte, off int64) error) error {
	type place struct{ table, chunk int }
	var places []place
	for i := range tables {
		for k := range tables[i].Chunks {
			places = append(places, place{i, k})
		}
	}
	return each(ctx, len(places), func(ctx context.Context, n int) error {
		p := places[n]
		t := &tables[p.table]
		var data []byte
		if p.chunk == 0 {
			data, t.first = t.first, nil
		} else {
			var err error
			if data, err = t.get(ctx, p.chunk); err != nil {
				return err
			}
		}
		defer t.done(data)
		return write(p.table, data, int64(p.chunk)*sectionChunk)
	})
}

// each calls do for 0 to n-1 from several goroutines and returns the first
// error.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for i := range n {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return do(ctx, i)
		})
	}
	return g.Wait()
}
