package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/dgraph-io/badger/v4"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// pageEntries is how many entries of a query are read at a time.
const pageEntries = 256

// Datastore is a go-datastore over a part of the store, for what the DHT
// keeps. A query walks only the entries below its prefix. It reads page by
// page and holds nothing open in between, so it sees some of what changes
// while it runs, and a forgotten result costs nothing.
type Datastore struct {
	store  *Store
	prefix []byte // kind and cleaned prefix, without a slash at the end
}

var (
	_ ds.Batching            = (*Datastore)(nil)
	_ ds.PersistentDatastore = (*Datastore)(nil)
)

// Datastore returns the datastore below prefix, which is a key such as "/dht".
// Datastores with prefixes of which neither is below the other share nothing.
func (s *Store) Datastore(prefix string) *Datastore {
	clean := ds.NewKey(prefix).String()
	if clean == "/" {
		clean = ""
	}
	return &Datastore{store: s, prefix: append([]byte{kindDatastore}, clean...)}
}

// Put keeps value under key.
func (d *Datastore) Put(ctx context.Context, key ds.Key, value []byte) error {
	k, err := d.key(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.store.setEntry(k, value)
}

// Delete forgets key; it is no error if there is none.
func (d *Datastore) Delete(ctx context.Context, key ds.Key) error {
	k, err := d.key(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.store.deleteEntry(k)
}

// Get returns a copy of the value of key, or ds.ErrNotFound.
func (d *Datastore) Get(ctx context.Context, key ds.Key) ([]byte, error) {
	k, err := d.key(key)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	value, err := d.store.entry(k)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ds.ErrNotFound
	}
	return value, err
}

// Has reports whether there is a value of key.
func (d *Datastore) Has(ctx context.Context, key ds.Key) (bool, error) {
	k, err := d.key(key)
	if err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := d.store.calls.enter(); err != nil {
		return false, err
	}
	defer d.store.calls.leave()
	return d.store.hasKey(k)
}

// GetSize returns the length of the value of key in bytes, or ds.ErrNotFound.
func (d *Datastore) GetSize(ctx context.Context, key ds.Key) (int, error) {
	value, err := d.Get(ctx, key)
	if err != nil {
		return -1, err
	}
	return len(value), nil
}

// Sync does nothing. What is kept here are hints that a node makes anew after a
// power cut, and writing all new chunks to the disk at each batch of them
// would cost packing a third of its speed.
func (d *Datastore) Sync(context.Context, ds.Key) error { return nil }

// Close does nothing: the Store is closed by who opened it.
func (d *Datastore) Close() error { return nil }

// DiskUsage is what the whole store takes on the disk, in bytes.
func (d *Datastore) DiskUsage(context.Context) (uint64, error) {
	n, err := diskBytes(d.store.dir)
	return uint64(n), err
}

// Query walks the entries below q.Prefix in the order of their keys; other
// orders sort them in memory.
func (d *Datastore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	prefix := path.Clean("/" + q.Prefix)
	if prefix != "/" {
		prefix += "/"
	}
	w := &walk{d: d, ctx: ctx, keysOnly: q.KeysOnly, sizes: q.ReturnsSizes, prefix: d.raw(prefix)}
	w.next = w.prefix
	rest := q
	rest.Prefix = ""
	if len(rest.Orders) == 1 {
		if _, byKey := rest.Orders[0].(query.OrderByKey); byKey {
			rest.Orders = nil
		}
	}
	res := query.ResultsFromIterator(q, query.Iterator{Next: w.result, Close: func() error { return nil }})
	return query.ResultsReplaceQuery(query.NaiveQueryApply(rest, res), q), nil
}

func (d *Datastore) key(key ds.Key) ([]byte, error) {
	if len(key.String()) > maxNameBytes {
		return nil, fmt.Errorf("datastore key of %d bytes is longer than %d", len(key.String()), maxNameBytes)
	}
	return d.raw(key.String()), nil
}

func (d *Datastore) raw(key string) []byte {
	raw := make([]byte, 0, len(d.prefix)+len(key))
	raw = append(raw, d.prefix...)
	return append(raw, key...)
}

// walk is a query under way.
type walk struct {
	d               *Datastore
	ctx             context.Context // of the query, as its results are pulled without one
	keysOnly, sizes bool
	prefix          []byte

	page []query.Entry
	next []byte // where the next page begins; nil after the last one
}

func (w *walk) result() (query.Result, bool) {
	if len(w.page) == 0 && w.next != nil {
		if err := w.readPage(); err != nil {
			w.next = nil
			return query.Result{Error: err}, true
		}
	}
	if len(w.page) == 0 {
		return query.Result{}, false
	}
	e := w.page[0]
	w.page = w.page[1:]
	return query.Result{Entry: e}, true
}

func (w *walk) readPage() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	s := w.d.store
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	start := w.next
	w.page, w.next = make([]query.Entry, 0, pageEntries), nil
	return s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: w.prefix})
		defer it.Close()
		for it.Seek(start); it.Valid(); it.Next() {
			if len(w.page) == pageEntries {
				w.next = it.Item().KeyCopy(nil)
				return nil
			}
			e, err := w.entry(it.Item())
			if err != nil {
				return fmt.Errorf("query store %s: %w", s.dir, err)
			}
			w.page = append(w.page, e)
		}
		return nil
	})
}

func (w *walk) entry(item *badger.Item) (query.Entry, error) {
	e := query.Entry{Key: string(item.Key()[len(w.d.prefix):]), Size: -1}
	if w.keysOnly && !w.sizes {
		return e, nil
	}
	value, err := copyValue(item)
	if err != nil {
		return e, err
	}
	e.Size = len(value)
	if !w.keysOnly {
		e.Value = value
	}
	return e, nil
}
