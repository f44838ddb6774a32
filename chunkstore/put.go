package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Put verifies p and keeps it as it is, plain or compressed. When it returns
// nil, the chunk can be read. It does nothing if the chunk is already held. It
// fails with a *chunk.CorruptError if p is not what its ID names, and with an
// error that matches syscall.ENOSPC if the disk is full. p.Bytes is not kept.
func (s *Store) Put(ctx context.Context, p chunk.Packed) error {
	if p.Codec == chunk.Plain {
		if _, err := p.Open(); err != nil {
			return err
		}
		return s.PutTrusted(ctx, p)
	}
	buf := chunk.NewBuffer(min(max(p.Size, 0), chunk.MaxSize))
	defer chunk.Recycle(buf)
	if _, err := p.OpenInto(buf); err != nil {
		return err
	}
	return s.PutTrusted(ctx, p)
}

// PutTrusted is Put without the hash. It is for a caller that has itself, in
// this process, computed p.ID from the content and packed that content into p
// (chunk.Pack, chunk.PackAs), as packing a directory does, or opened this very
// p without an error (Packed.Open), as the swarm does. It is never for bytes
// that came from a peer, a file or a user with an ID beside them and were not
// yet opened.
func (s *Store) PutTrusted(ctx context.Context, p chunk.Packed) error {
	_, err := s.PutAllTrusted(ctx, []chunk.Packed{p})
	return err
}

// Added says what of the chunks handed in was not held before.
type Added struct {
	Chunks int
	Bytes  int64 // encoded, the headers apart
}

// PutAllTrusted is PutTrusted for each of ps, which are written together: that
// costs less than one after another. They may name a chunk twice. After an
// error any of them may have been put.
func (s *Store) PutAllTrusted(ctx context.Context, ps []chunk.Packed) (Added, error) {
	for _, p := range ps {
		if err := wellFormed(p); err != nil {
			return Added{}, err
		}
	}
	if err := s.calls.enter(); err != nil {
		return Added{}, err
	}
	defer s.calls.leave()
	ids := make([]chunk.ID, len(ps))
	for i, p := range ps {
		ids[i] = p.ID
	}
	release, err := s.claims.take(ctx, ids...)
	if err != nil {
		return Added{}, err
	}
	defer release()
	var size int64
	for _, p := range ps {
		size += int64(chunk.HeaderSize + len(p.Bytes))
	}
	size = min(size, maxPendingBytes)
	if err := s.pending.Acquire(ctx, size); err != nil {
		return Added{}, err
	}
	defer s.pending.Release(size)
	isNew, err := s.putTogether(ps)
	if err != nil {
		return Added{}, err
	}
	return s.added(ps, isNew), nil
}

// added notes and tells of the chunks that are new.
func (s *Store) added(ps []chunk.Packed, isNew []bool) Added {
	var a Added
	for i, p := range ps {
		if !isNew[i] {
			continue
		}
		a.Chunks++
		a.Bytes += int64(len(p.Bytes))
		s.verified.add(p.ID)
		s.log.Debug("chunk put", "chunk", p.ID, "bytes", len(p.Bytes))
		if s.opts.OnPut != nil {
			s.opts.OnPut(p.ID)
		}
	}
	return a
}

// wellFormed refuses a p that could not be read back.
func wellFormed(p chunk.Packed) error {
	switch {
	case p.Size < 0 || p.Size > chunk.MaxSize:
		return &chunk.CorruptError{ID: p.ID, Reason: fmt.Sprintf("plain size %d is beyond %d bytes", p.Size, chunk.MaxSize)}
	case p.Codec == chunk.Plain && len(p.Bytes) == p.Size, p.Codec == chunk.Zstd && len(p.Bytes) <= p.Size:
		return nil
	}
	return &chunk.CorruptError{ID: p.ID, Reason: fmt.Sprintf("%d bytes in codec %d for a plain size of %d", len(p.Bytes), p.Codec, p.Size)}
}

// update runs fn in a transaction that writes about size bytes, if the disk
// then still has reserve bytes free. What fn hands to the transaction is free
// to be used again when update returns.
func (s *Store) update(size, reserve int64, fn func(*badger.Txn) error) error {
	return s.write(size, reserve, func() error { return s.db.Update(fn) })
}

// write is update for any way of writing to Badger.
func (s *Store) write(size, reserve int64, fn func() error) error {
	s.writes.RLock()
	defer s.writes.RUnlock()
	s.writing.Add(size)
	defer s.writing.Add(-size)
	if err := s.room(reserve); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return fmt.Errorf("write to store %s: %w", s.dir, err)
	}
	return nil
}

// Delete forgets the chunk; it does nothing if the chunk is not held. The
// space comes back through Compact.
func (s *Store) Delete(ctx context.Context, id chunk.ID) error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	release, err := s.claims.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if held, err := s.hasKey(chunkKey(id)); err != nil || !held {
		return err
	}
	return s.deleteClaimed(id)
}

// deleteClaimed deletes a chunk whose claim the caller holds. It goes into
// the reserve, since deleting is the way out of a full disk.
func (s *Store) deleteClaimed(id chunk.ID) error {
	key := chunkKey(id)
	s.verified.remove(id)
	if err := s.update(int64(len(key)), s.smallReserve(), func(txn *badger.Txn) error { return txn.Delete(key) }); err != nil {
		return err
	}
	s.log.Debug("chunk deleted", "chunk", id)
	if s.opts.OnDelete != nil {
		s.opts.OnDelete(id)
	}
	return nil
}

func (s *Store) hasKey(key []byte) (held bool, err error) {
	err = s.view(func(txn *badger.Txn) error {
		_, err := txn.Get(key)
		held = err == nil
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look up in store %s: %w", s.dir, err)
	}
	return held, nil
}

func chunkKey(id chunk.ID) []byte {
	key := make([]byte, 0, 1+len(id))
	key = append(key, kindChunk)
	return append(key, id[:]...)
}

// claims makes changes of one chunk come one after another.
type claims struct {
	mu   sync.Mutex
	busy map[chunk.ID]chan struct{}
}

// take waits until nobody else changes any of ids, which may hold one twice,
// and returns what ends the claim.
func (c *claims) take(ctx context.Context, ids ...chunk.ID) (release func(), err error) {
	// All take their claims in one order, so that none wait in a circle.
	slices.SortFunc(ids, func(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) })
	ids = slices.Compact(ids)
	done := make(chan struct{})
	for i := 0; i < len(ids); {
		other := c.claim(ids[i], done)
		if other == nil {
			i++
			continue
		}
		select {
		case <-other:
		case <-ctx.Done():
			c.release(ids[:i], done)
			return nil, ctx.Err()
		}
	}
	return func() { c.release(ids, done) }, nil
}

// claim claims id until done is closed, or returns the claim that stands.
func (c *claims) claim(id chunk.ID, done chan struct{}) (other chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, busy := c.busy[id]; busy {
		return other
	}
	c.busy[id] = done
	return nil
}

func (c *claims) release(ids []chunk.ID, done chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		delete(c.busy, id)
	}
	close(done)
}
