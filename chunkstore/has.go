package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Has reports whether the chunk is held. It looks at the key only.
func (s *Store) Has(ctx context.Context, id chunk.ID) (bool, error) {
	held, err := s.HasMany(ctx, []chunk.ID{id})
	if err != nil {
		return false, err
	}
	return held[0], nil
}

// HasMany is Has for each of ids, in their order. It is quicker for many
// at once.
func (s *Store) HasMany(ctx context.Context, ids []chunk.ID) ([]bool, error) {
	if err := s.calls.enter(); err != nil {
		return nil, err
	}
	defer s.calls.leave()
	held := make([]bool, len(ids))
	err := s.view(func(txn *badger.Txn) error {
		if len(ids) >= fewKeys {
			walkKeys(ctx, txn, ids, held)
		}
		for i, id := range ids {
			if held[i] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			switch _, err := txn.Get(chunkKey(id)); {
			case err == nil:
				held[i] = true
			case !errors.Is(err, badger.ErrKeyNotFound):
				return fmt.Errorf("look up in store %s: %w", s.dir, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

const (
	fewKeys = 64 // are looked up one by one
	// keysPassed is how many keys of other chunks may be passed for each that is
	// looked for. Passing one takes a third of a microsecond; looking one up
	// takes five if it is there, most of it for the checksum of its block of
	// keys, and one if not.
	keysPassed = 8
)

// walkKeys sets held for those of ids that it meets on its way over the store's
// keys, in their order, and gives up where the store has too many others. What
// it does not meet is not known: Badger's iterators are silent about what they
// cannot read.
func walkKeys(ctx context.Context, txn *badger.Txn, ids []chunk.ID, held []bool) {
	order := make([]int, len(ids))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(ids[a][:], ids[b][:]) })
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{kindChunk}})
	defer it.Close()
	it.Seek(chunkKey(ids[order[0]]))
	passed := 0
	for n := 0; n < len(order) && it.Valid() && ctx.Err() == nil; {
		after := bytes.Compare(it.Item().Key()[1:], ids[order[n]][:])
		if after >= 0 {
			held[order[n]] = after == 0
			n++
			continue
		}
		if passed++; passed > fewKeys+keysPassed*n {
			return
		}
		it.Next()
	}
}
