package chunkstore

import (
	"context"

	ds "github.com/ipfs/go-datastore"
)

// Batch returns a batch: what is put and deleted there is written by Commit,
// in a few transactions.
func (d *Datastore) Batch(context.Context) (ds.Batch, error) {
	return &batch{d: d, ops: make(map[string]batchOp)}, nil
}

type batch struct {
	d   *Datastore
	ops map[string]batchOp
}

type batchOp struct {
	value   []byte
	deleted bool
}

func (b *batch) Put(_ context.Context, key ds.Key, value []byte) error {
	return b.add(key, batchOp{value: append([]byte{}, value...)})
}

func (b *batch) Delete(_ context.Context, key ds.Key) error {
	return b.add(key, batchOp{deleted: true})
}

func (b *batch) add(key ds.Key, op batchOp) error {
	k, err := b.d.key(key)
	if err != nil {
		return err
	}
	b.ops[string(k)] = op
	return nil
}

// Commit writes the batch and empties it.
func (b *batch) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := b.d.store
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	var size int64
	for k, op := range b.ops {
		size += int64(len(k) + len(op.value))
	}
	if err := s.write(size, s.smallReserve(), b.flush); err != nil {
		return err
	}
	clear(b.ops)
	return nil
}

func (b *batch) flush() error {
	wb := b.d.store.db.NewWriteBatch()
	defer wb.Cancel()
	for k, op := range b.ops {
		var err error
		if op.deleted {
			err = wb.Delete([]byte(k))
		} else {
			err = wb.Set([]byte(k), op.value)
		}
		if err != nil {
			return err
		}
	}
	return wb.Flush()
}
