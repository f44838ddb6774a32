package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"runtime/debug"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Get returns the verified plain content of a chunk, which is the caller's
// own. The error matches chunk.ErrNotFound if the chunk is not held. If what
// is on the disk is not the chunk, the error is a *chunk.CorruptError, and the
// chunk is no longer held, so that it can be fetched and put again.
func (s *Store) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	var data []byte
	err := s.read(ctx, id, false, func(p chunk.Packed) (err error) {
		defer chunk.Recycle(p.Bytes)
		if data, err = p.Open(); p.Codec == chunk.Plain {
			data = bytes.Clone(data)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// GetOwned is Get into a buffer of chunk.NewBuffer, to be given to
// chunk.Recycle.
func (s *Store) GetOwned(ctx context.Context, id chunk.ID) ([]byte, error) {
	var data []byte
	err := s.read(ctx, id, false, func(p chunk.Packed) (err error) {
		if p.Codec == chunk.Plain {
			data, err = p.Open()
			return err
		}
		defer chunk.Recycle(p.Bytes)
		data, err = p.OpenInto(chunk.NewBuffer(p.Size))
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// GetPacked is Get for a chunk in the form in which it was put, to be handed
// on to a peer, who verifies it himself. Its hash is checked the first time it
// is read since the store was opened, and its checksum each time. Bytes is the
// caller's own, who may give it to chunk.Recycle.
func (s *Store) GetPacked(ctx context.Context, id chunk.ID) (chunk.Packed, error) {
	var packed chunk.Packed
	err := s.read(ctx, id, true, func(p chunk.Packed) error {
		packed = p
		if s.verified.has(id) {
			return nil
		}
		var plain []byte
		if p.Codec != chunk.Plain {
			plain = chunk.NewBuffer(p.Size)
			defer chunk.Recycle(plain)
		}
		_, err := p.OpenInto(plain)
		if err == nil {
			s.verified.add(id)
		}
		return err
	})
	if err != nil {
		s.verified.remove(id)
		return chunk.Packed{}, err
	}
	return packed, nil
}

// PackedSize returns how many encoded bytes the chunk takes, the header apart,
// and false if it is not held. Like Has it looks at the index only.
func (s *Store) PackedSize(_ context.Context, id chunk.ID) (size int, held bool, err error) {
	if err := s.calls.enter(); err != nil {
		return 0, false, err
	}
	defer s.calls.leave()
	at, err := s.find(id)
	if errors.Is(err, chunk.ErrNotFound) {
		return 0, false, nil
	}
	return int(at.size) - chunk.HeaderSize, err == nil, err
}

// read gives the stored form of a chunk to open, which must verify it and
// owns its bytes, and drops the chunk if anything finds it corrupt.
func (s *Store) read(ctx context.Context, id chunk.ID, withChecksum bool, open func(p chunk.Packed) error) error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := s.load(id, withChecksum)
	if err == nil {
		err = open(p)
	}
	if corrupt := (*chunk.CorruptError)(nil); errors.As(err, &corrupt) {
		s.drop(ctx, id, corrupt)
	}
	return err
}

// load returns the stored form of a chunk, in a buffer of its own. Compact may
// take its segment away between looking into the index and opening the file;
// then the index says where it is now.
func (s *Store) load(id chunk.ID, withChecksum bool) (p chunk.Packed, err error) {
	for before := (place{}); ; {
		at, err := s.find(id)
		if err != nil {
			return p, err
		}
		if p, err = s.segments.read(id, at, withChecksum); !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
		if at == before {
			return p, &chunk.CorruptError{ID: id, Reason: err.Error()}
		}
		before = at
	}
}

// find returns the place of a chunk. The error matches chunk.ErrNotFound if
// it is not held, and is a *chunk.CorruptError if that part of the index cannot
// be read.
func (s *Store) find(id chunk.ID) (at place, err error) {
	err = s.view(func(txn *badger.Txn) error {
		item, err := txn.Get(chunkKey(id))
		if err != nil {
			return err
		}
		at, err = placeOf(item)
		return err
	})
	fault := (*faultError)(nil)
	switch {
	case err == nil:
		return at, nil
	case errors.Is(err, badger.ErrKeyNotFound):
		return at, fmt.Errorf("chunk %s in store %s: %w", id, s.dir, chunk.ErrNotFound)
	case errors.Is(err, y.ErrChecksumMismatch), errors.Is(err, errNoPlace), errors.As(err, &fault):
		return at, &chunk.CorruptError{ID: id, Reason: err.Error()}
	}
	return at, fmt.Errorf("look up chunk %s in store %s: %w", id, s.dir, err)
}

func placeOf(item *badger.Item) (at place, err error) {
	err = item.Value(func(v []byte) error {
		at, err = parsePlace(v)
		return err
	})
	return at, err
}

// drop deletes a chunk that was found corrupt, unless it has been put anew
// since.
func (s *Store) drop(ctx context.Context, id chunk.ID, found error) {
	release, err := s.claims.take(ctx, id)
	if err != nil {
		return // the next read finds it again
	}
	defer release()
	corrupt := (*chunk.CorruptError)(nil)
	p, err := s.load(id, true)
	if err == nil {
		_, err = p.Open()
	}
	if !errors.As(err, &corrupt) {
		return
	}
	if err := s.dropClaimed(id, found); err != nil {
		s.log.Error("corrupt chunk could not be dropped", "chunk", id, "found", found, "err", err)
	}
}

func (s *Store) dropClaimed(id chunk.ID, found error) error {
	if err := s.deleteClaimed(id); err != nil {
		return err
	}
	s.log.Warn("corrupt chunk dropped", "chunk", id, "store", s.dir, "found", found)
	return nil
}

// view runs fn in a read transaction of the index. Badger reads its files
// through mmap, where a bad sector or a file cut short is a fault and not an
// error; view makes it an error.
func (s *Store) view(fn func(*badger.Txn) error) error {
	err := viewOf(s.db, fn)
	if fault := (*faultError)(nil); errors.As(err, &fault) {
		s.faulted.Store(true)
	}
	return err
}

func viewOf(db *badger.DB, fn func(*badger.Txn) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			fault, ok := r.(memoryFault)
			if !ok {
				panic(r)
			}
			err = &faultError{fault}
		}
	}()
	return db.View(fn)
}

// memoryFault is how the runtime panics for an address that cannot be read.
type memoryFault interface {
	runtime.Error
	Addr() uintptr
}

// faultError says that reading Badger's files hit memory that is not there.
type faultError struct{ cause runtime.Error }

func (e *faultError) Error() string { return "disk could not be read: " + e.cause.Error() }
func (e *faultError) Unwrap() error { return e.cause }
