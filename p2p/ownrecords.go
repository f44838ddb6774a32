package p2p

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"

	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/flistnode/flistnode/flist/chunk"
)

// ownRecords is the datastore of the DHT's provider records with those this
// node would have to write for itself added: whoever asks it who has a chunk
// is told that it does, as soon as it does, without a record for each. In a
// network of at most 20 nodes a lookup asks all of them, and so finds every
// holder.
type ownRecords struct {
	ds.Batching
	self  string // as the records name it
	holds func(context.Context, chunk.ID) (bool, error)
}

// base32Raw is how the DHT writes keys and peers in the names of its records.
var base32Raw = base32.StdEncoding.WithPadding(base32.NoPadding)

func newOwnRecords(d ds.Batching, self peer.ID, holds func(context.Context, chunk.ID) (bool, error)) ownRecords {
	return ownRecords{d, base32Raw.EncodeToString([]byte(self)), holds}
}

// Query adds this node's record to those of a chunk it holds.
func (o ownRecords) Query(ctx context.Context, q dsq.Query) (dsq.Results, error) {
	res, err := o.Batching.Query(ctx, q)
	if err != nil || q.KeysOnly {
		return res, err
	}
	id, ok := askedFor(q.Prefix)
	if !ok {
		return res, nil
	}
	held, err := o.holds(ctx, id)
	if !held || err != nil { // a store that cannot be read holds nothing to give
		return res, nil //nolint:nilerr
	}
	others, err := res.Rest()
	if err != nil {
		return nil, err
	}
	now := binary.AppendVarint(nil, time.Now().UnixNano())
	own := dsq.Entry{Key: q.Prefix + "/" + o.self, Value: now, Size: len(now)}
	return dsq.ResultsWithEntries(q, append(others, own)), nil
}

// askedFor returns the chunk whose records lie below prefix.
func askedFor(prefix string) (id chunk.ID, ok bool) {
	key, ok := strings.CutPrefix(prefix, records.ProvidersKeyPrefix)
	if !ok {
		return id, false
	}
	hash, err := base32Raw.DecodeString(key)
	if err != nil {
		return id, false
	}
	id, err = chunk.FromMultihash(hash)
	return id, err == nil
}

// noCache lets the provider store read its datastore at each lookup. It would
// remember who has a chunk, and not hear that this node has it meanwhile.
type noCache struct{}

func (noCache) Add(_, _ any) bool                { return false }
func (noCache) Get(any) (any, bool)              { return nil, false }
func (noCache) Contains(any) bool                { return false }
func (noCache) Peek(any) (any, bool)             { return nil, false }
func (noCache) Remove(any) bool                  { return false }
func (noCache) RemoveOldest() (_, _ any, _ bool) { return nil, nil, false }
func (noCache) GetOldest() (_, _ any, _ bool)    { return nil, nil, false }
func (noCache) Keys() []any                      { return nil }
func (noCache) Len() int                         { return 0 }
func (noCache) Purge()                           {}
func (noCache) Resize(int) int                   { return 0 }
