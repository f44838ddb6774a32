// Package chunk holds the words every other package speaks: the ID of a
// chunk, the Source that gives chunks, the Sink that takes them, the Packed
// form in which they travel and rest, and the errors that tell what went
// wrong.
//
// A chunk is at most MaxSize bytes of plain content, named by the SHA2-256 of
// that content. The name never depends on how the bytes are compressed.
//
// Everything here may be used from many goroutines at once.
package chunk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// MaxSize is the largest plain content of a chunk, in bytes. A longer one is
// refused wherever it is met, before memory is taken for it.
const MaxSize = 1 << 20

// ID names a chunk: the SHA2-256 of its plain content.
type ID [sha256.Size]byte

// Sum returns the ID of data.
func Sum(data []byte) ID { return sha256.Sum256(data) }

// CID returns id as a CIDv1 with the raw codec, the name any IPFS tool gives
// the same bytes.
func (id ID) CID() cid.Cid { return cid.NewCidV1(cid.Raw, id.Multihash()) }

// Multihash returns id as a sha2-256 multihash (34 bytes).
func (id ID) Multihash() multihash.Multihash {
	mh := make([]byte, 0, 2+len(id))
	mh = append(mh, multihash.SHA2_256, byte(len(id)))
	return append(mh, id[:]...)
}

// String returns the CID of id in its usual base32 form.
func (id ID) String() string { return id.CID().String() }

// FromCID returns the ID in c. The codec is not looked at: a root block
// (dag-cbor) and a data chunk (raw) are stored and fetched alike. It fails if
// the hash is not a whole SHA2-256.
func FromCID(c cid.Cid) (ID, error) {
	if !c.Defined() {
		return ID{}, errors.New("empty CID")
	}
	return FromMultihash(c.Hash())
}

// FromMultihash returns the ID in mh, which must be a whole SHA2-256.
func FromMultihash(mh multihash.Multihash) (ID, error) {
	var id ID
	dec, err := multihash.Decode(mh)
	if err != nil {
		return id, fmt.Errorf("decode multihash: %w", err)
	}
	if dec.Code != multihash.SHA2_256 || len(dec.Digest) != len(id) {
		return id, fmt.Errorf("hash is %s of %d bytes, want sha2-256 of %d", dec.Name, len(dec.Digest), len(id))
	}
	copy(id[:], dec.Digest)
	return id, nil
}

// Verify reports whether data is the content id names: nil, or a
// *CorruptError.
func Verify(id ID, data []byte) error {
	if got := Sum(data); got != id {
		return &CorruptError{ID: id, Reason: fmt.Sprintf("content hashes to %s", got)}
	}
	return nil
}

// Source gives the verified content of a chunk.
//
// Three things may happen: the whole plain content of id comes back, already
// verified; the error matches ErrNotFound, because the chunk is not to be had
// here (now); or another error says what went wrong. The slice is shared and
// must not be modified. A Source may be used concurrently.
type Source interface {
	Get(ctx context.Context, id ID) ([]byte, error)
}

// Sink takes chunks. Put keeps p, whose ID must already have been computed
// from or verified against its content by the caller, or verifies it itself;
// each implementation says which. Put must not keep p.Bytes after it returns.
// A Sink may be used concurrently.
type Sink interface {
	Put(ctx context.Context, p Packed) error
}

// BatchSink is a Sink that takes many chunks sooner than one after another.
type BatchSink interface {
	Sink
	// PutAll is Put for each of ps, which may name a chunk twice. After an
	// error any of them may have been put.
	PutAll(ctx context.Context, ps []Packed) error
}

// ErrNotFound says that a Source does not have a chunk.
var ErrNotFound = errors.New("chunk not found")

// CorruptError says that bytes are not the chunk they claim to be.
type CorruptError struct {
	ID     ID     // what was wanted
	Reason string // what was found instead
}

func (e *CorruptError) Error() string { return fmt.Sprintf("chunk %s is corrupt: %s", e.ID, e.Reason) }
