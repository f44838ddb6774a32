package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
)

// movedTogether is how many chunks Compact moves at a time.
const movedTogether = 16

// Compact gives space of deleted chunks back to the disk: of each segment of
// which more than half is of no use, what is held is moved to the newest, and
// the segment removed. It may run beside everything else; a second one at the
// same time does nothing.
func (s *Store) Compact(ctx context.Context) error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	if !s.compacting.TryLock() {
		return nil
	}
	defer s.compacting.Unlock()
	if err := s.compact(ctx); err != nil {
		return fmt.Errorf("compact store %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) compact(ctx context.Context) error {
	if s.faulted.Load() {
		return errors.New("refused after a read error of the disk; restart first")
	}
	// Badger's iterators are silent about what they cannot read, and what they do
	// not show would be removed.
	if err := s.view(func(*badger.Txn) error { return verifyTables(s.db) }); err != nil {
		return fmt.Errorf("the index is damaged, so nothing is removed: %w", err)
	}
	used, err := s.usedBytes(ctx)
	if err != nil {
		return err
	}
	if err := s.segments.sealIf(func(number uint32, size int64) bool { return mostlyUnused(used[number], size) }); err != nil {
		return err
	}
	sealed, err := s.segments.sealed()
	if err != nil {
		return err
	}
	// Who wrote to one of them before it was sealed has written to the index,
	// too, when this lock is had. So from now on the index has all there is.
	s.writes.Lock()
	s.writes.Unlock() //nolint:staticcheck // it guards nothing, it waits
	if used, err = s.usedBytes(ctx); err != nil {
		return err
	}
	for _, f := range sealed {
		if !mostlyUnused(used[f.number], f.size) {
			continue
		}
		if err := s.clear(ctx, f.number, used[f.number]); err != nil {
			return err
		}
	}
	return nil
}

// verifyTables reads all tables, whose iterators are silent about what they
// cannot read. Where a block has a wrong checksum Badger 4.9 panics instead of
// saying so.
func verifyTables(db *badger.DB) (err error) {
	defer func() {
		r := recover()
		if _, fault := r.(memoryFault); fault {
			panic(r) // view knows
		} else if r != nil {
			err = fmt.Errorf("a table cannot be read: %v", r)
		}
	}()
	return db.VerifyChecksum()
}

func mostlyUnused(used, size int64) bool { return used == 0 || 2*used < size }

// usedBytes returns by segment what the records of chunks held take.
func (s *Store) usedBytes(ctx context.Context) (map[uint32]int64, error) {
	used := make(map[uint32]int64)
	err := s.walk(ctx, func(_ chunk.ID, at place) error {
		used[at.segment] += at.recordBytes()
		return nil
	})
	return used, err
}

// clear moves what is held of a segment, about size bytes, and removes it when
// the new places are on the disk.
func (s *Store) clear(ctx context.Context, number uint32, size int64) error {
	var ids []chunk.ID
	if size > 0 {
		if err := s.room(size + s.smallReserve()); err != nil {
			return err
		}
		err := s.walk(ctx, func(id chunk.ID, at place) error {
			if at.segment == number {
				ids = append(ids, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for some := range slices.Chunk(ids, movedTogether) {
		if err := s.move(ctx, number, some); err != nil {
			return err
		}
	}
	if err := s.sync(); err != nil {
		return err
	}
	s.log.Debug("segment removed", "segment", number, "bytes moved", size)
	return s.segments.remove(number)
}

// move moves those of ids that are in a segment to the newest.
func (s *Store) move(ctx context.Context, number uint32, ids []chunk.ID) error {
	release, err := s.claims.take(ctx, ids...)
	if err != nil {
		return err
	}
	defer release()
	var (
		ps   []chunk.Packed
		size int64
	)
	defer func() {
		for _, p := range ps {
			chunk.Recycle(p.Bytes)
		}
	}()
	for _, id := range ids {
		p, err := s.loadFrom(id, number)
		switch corrupt := (*chunk.CorruptError)(nil); {
		case errors.As(err, &corrupt):
			if err := s.dropClaimed(id, corrupt); err != nil {
				return err
			}
		case errors.Is(err, chunk.ErrNotFound): // deleted meanwhile, or put anew
		case err != nil:
			return err
		default:
			ps, size = append(ps, p), size+int64(recordHeader+chunk.HeaderSize+len(p.Bytes))
		}
	}
	return s.write(size, s.smallReserve(), func() error {
		places, err := s.segments.append(ps)
		if err != nil {
			return err
		}
		return s.setPlaces(ps, places)
	})
}

// loadFrom is load for a chunk of one segment; others are chunk.ErrNotFound.
func (s *Store) loadFrom(id chunk.ID, number uint32) (p chunk.Packed, err error) {
	at, err := s.find(id)
	if err == nil && at.segment != number {
		err = chunk.ErrNotFound
	}
	if err != nil {
		return p, err
	}
	return s.segments.read(id, at, true)
}
