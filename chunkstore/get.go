package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	err := s.read(ctx, id, true, func(p chunk.Packed) (err error) {
		if p.Codec == chunk.Plain {
			p.Bytes = bytes.Clone(p.Bytes) // before it is verified: the file under it may change
		}
		data, err = p.Open()
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
	var data, buf []byte
	err := s.read(ctx, id, true, func(p chunk.Packed) (err error) {
		buf = chunk.NewBuffer(p.Size)
		if p.Codec == chunk.Plain {
			p.Bytes = append(buf[:0], p.Bytes...) // before it is verified, as in Get
		}
		data, err = p.OpenInto(buf)
		return err
	})
	if err != nil {
		chunk.Recycle(buf)
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
	err := s.read(ctx, id, false, func(p chunk.Packed) error {
		packed = p
		packed.Bytes = append(chunk.NewBuffer(len(p.Bytes))[:0], p.Bytes...)
		if s.verified.has(id) {
			return wellFormed(packed)
		}
		var plain []byte
		if packed.Codec != chunk.Plain {
			plain = chunk.NewBuffer(packed.Size)
			defer chunk.Recycle(plain)
		}
		_, err := packed.OpenInto(plain)
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
// and false if it is not held. Like Has it looks at the key only.
func (s *Store) PackedSize(_ context.Context, id chunk.ID) (size int, held bool, err error) {
	if err := s.calls.enter(); err != nil {
		return 0, false, err
	}
	defer s.calls.leave()
	err = s.view(func(txn *badger.Txn) error {
		item, err := txn.Get(chunkKey(id))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up in store %s: %w", s.dir, err)
		}
		size, held = valueSize(item)-chunk.HeaderSize, true
		return nil
	})
	return size, held, err
}

// read gives the stored form of a chunk to open, which must verify it, and
// drops the chunk if open or Badger finds it corrupt. p.Bytes is valid inside
// open only. With direct the value is read past Badger, so open must check
// the content and not rely on checksums; it may be called twice.
func (s *Store) read(ctx context.Context, id chunk.ID, direct bool, open func(p chunk.Packed) error) error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.readOnce(id, direct, open)
	if corrupt := (*chunk.CorruptError)(nil); errors.As(err, &corrupt) {
		s.drop(ctx, id, corrupt)
	}
	return err
}

func (s *Store) readOnce(id chunk.ID, direct bool, open func(p chunk.Packed) error) error {
	err := s.view(func(txn *badger.Txn) error {
		item, err := txn.Get(chunkKey(id))
		if err != nil {
			return err
		}
		if direct && s.values.open(item, id, open) == nil {
			return nil
		}
		called := false
		err = item.Value(func(v []byte) error {
			called = true
			if len(v) == 0 { // so Badger passes on some of its read errors
				return &chunk.CorruptError{ID: id, Reason: "the disk does not give back what was written"}
			}
			p, err := chunk.ParsePacked(id, v)
			if err != nil {
				return err
			}
			return open(p)
		})
		if err != nil && !called {
			return &chunk.CorruptError{ID: id, Reason: err.Error()}
		}
		return err
	})
	fault := (*faultError)(nil)
	corrupt := (*chunk.CorruptError)(nil)
	switch {
	case err == nil || errors.As(err, &corrupt):
		return err
	case errors.Is(err, badger.ErrKeyNotFound):
		return fmt.Errorf("chunk %s in store %s: %w", id, s.dir, chunk.ErrNotFound)
	case errors.Is(err, y.ErrChecksumMismatch) || errors.As(err, &fault):
		return &chunk.CorruptError{ID: id, Reason: err.Error()}
	}
	return fmt.Errorf("read chunk %s from store %s: %w", id, s.dir, err)
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
	if err := s.readOnce(id, false, func(p chunk.Packed) error { _, err := p.Open(); return err }); !errors.As(err, &corrupt) {
		return
	}
	if err := s.deleteClaimed(id); err != nil {
		s.log.Error("corrupt chunk could not be dropped", "chunk", id, "found", found, "err", err)
		return
	}
	s.log.Warn("corrupt chunk dropped", "chunk", id, "store", s.dir, "found", found)
}

// view runs fn in a read transaction. Badger reads its files through mmap,
// where a bad sector or a file cut short is a fault and not an error; view
// makes it an error.
func (s *Store) view(fn func(*badger.Txn) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			fault, ok := r.(memoryFault)
			if !ok {
				panic(r)
			}
			s.faulted.Store(true)
			err = &faultError{fault}
		}
	}()
	return s.db.View(fn)
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
