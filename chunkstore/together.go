package chunkstore

import (
	"errors"
	"fmt"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
)

// together writes what is put while an earlier write is under way in one go:
// a transaction of Badger costs the same for one chunk and for many.
type together struct {
	mu   sync.Mutex
	busy bool   // a round is being written
	next *round // gathers callers meanwhile; nil if there are none
}

// round is what one write takes to the disk.
type round struct {
	ps    []chunk.Packed
	added []bool // by ps: it was not held before
	err   error
	start chan struct{} // closed when its first caller is to write it
	done  chan struct{} // closed when added and err are there
}

// putTogether writes those of ps that are not held, whose claims the caller has, and
// tells which these were.
func (s *Store) putTogether(ps []chunk.Packed) (added []bool, err error) {
	t := &s.together
	t.mu.Lock()
	first := t.next == nil
	if first {
		t.next = &round{start: make(chan struct{}), done: make(chan struct{})}
		if !t.busy {
			t.busy = true
			close(t.next.start)
		}
	}
	r, from := t.next, len(t.next.ps)
	r.ps = append(r.ps, ps...)
	t.mu.Unlock()
	if first {
		<-r.start
		s.writeRound(r)
	}
	<-r.done
	if r.err != nil {
		return nil, r.err
	}
	return r.added[from : from+len(ps)], nil
}

// writeRound writes r and hands on to the round that has gathered since.
func (s *Store) writeRound(r *round) {
	t := &s.together
	t.mu.Lock()
	t.next = nil
	t.mu.Unlock()
	r.added, r.err = s.writeMissing(r.ps)
	t.mu.Lock()
	if t.busy = t.next != nil; t.busy {
		close(t.next.start)
	}
	t.mu.Unlock()
	close(r.done)
	s.segments.startWriteback()
}

// writeMissing writes those of ps that are not held, each chunk once.
func (s *Store) writeMissing(ps []chunk.Packed) (added []bool, err error) {
	if added, err = s.missing(ps); err != nil {
		return nil, err
	}
	var (
		ours []chunk.Packed
		size int64
	)
	for i, p := range ps {
		if added[i] {
			ours = append(ours, p)
			size += int64(recordHeader + chunk.HeaderSize + len(p.Bytes))
		}
	}
	if len(ours) == 0 {
		return added, nil
	}
	return added, s.write(size, s.opts.ReserveBytes, func() error {
		places, err := s.segments.append(ours)
		if err != nil {
			return err
		}
		return s.setPlaces(ours, places)
	})
}

// setPlaces makes the index say where each of ps is.
func (s *Store) setPlaces(ps []chunk.Packed, places []place) error {
	wb := s.db.NewWriteBatch() // several transactions if they are too many for one
	defer wb.Cancel()
	for i, p := range ps {
		if err := wb.Set(chunkKey(p.ID), places[i].append(nil)); err != nil {
			return err
		}
	}
	return wb.Flush()
}

// missing tells by ps which are not held; of those that are the same chunk only
// the first.
func (s *Store) missing(ps []chunk.Packed) ([]bool, error) {
	missing := make([]bool, len(ps))
	met := make(map[chunk.ID]struct{}, len(ps))
	err := s.view(func(txn *badger.Txn) error {
		for i, p := range ps {
			if _, twice := met[p.ID]; twice {
				continue
			}
			met[p.ID] = struct{}{}
			_, err := txn.Get(chunkKey(p.ID))
			if missing[i] = errors.Is(err, badger.ErrKeyNotFound); err != nil && !missing[i] {
				return fmt.Errorf("look up in store %s: %w", s.dir, err)
			}
		}
		return nil
	})
	return missing, err
}
