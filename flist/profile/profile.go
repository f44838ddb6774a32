// Package profile is the order in which a workload first touches the data
// chunks of an image: what a mount records, nodes pass on, and another mount
// replays to have chunks before they are asked for.
//
// A Profile says nothing about content. One that came from a peer may name any
// chunks of the image in any order; it costs at most the fetching of MaxChunks
// of them. The package keeps no state and may be used by many goroutines.
package profile

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Profile lists indexes of data chunks (flist.Image.Chunk), each once, in the
// order in which they were first touched.
type Profile []uint32

const (
	// MaxChunks bounds a Profile: 1 GB of the largest cut chunks, and more
	// than the start of any program needs.
	MaxChunks = 8192
	// MaxBytes bounds what Encode returns.
	MaxBytes = 1 + binary.MaxVarintLen32 + MaxChunks*binary.MaxVarintLen32

	version = 1
)

// ErrInvalid says that bytes are no profile of this version.
var ErrInvalid = errors.New("not a profile")

// Encode returns the bytes of p, of which it takes the first MaxChunks
// chunks: a version, the number of chunks, and the signed distance of each from
// the one before, as variable-length integers.
func (p Profile) Encode() []byte {
	p = p[:min(len(p), MaxChunks)]
	b := append(make([]byte, 0, 2*len(p)+8), version)
	b = binary.AppendUvarint(b, uint64(len(p)))
	last := int64(0)
	for _, i := range p {
		b = binary.AppendVarint(b, int64(i)-last)
		last = int64(i)
	}
	return b
}

// Decode reads a profile of an image of chunks data chunks. It fails with
// ErrInvalid.
func Decode(b []byte, chunks int) (Profile, error) {
	if len(b) == 0 || b[0] != version {
		return nil, fmt.Errorf("%w: unknown version", ErrInvalid)
	}
	b = b[1:]
	count, n := binary.Uvarint(b)
	if n <= 0 || count > MaxChunks || count > uint64(len(b)-n) {
		return nil, fmt.Errorf("%w: bad number of chunks", ErrInvalid)
	}
	b = b[n:]
	p := make(Profile, 0, count)
	seen := make(map[uint32]bool, count)
	last := int64(0)
	for range count {
		d, n := binary.Varint(b)
		if n <= 0 || d < -last || d >= int64(chunks)-last {
			return nil, fmt.Errorf("%w: entry %d of %d is not of this image", ErrInvalid, len(p), count)
		}
		b = b[n:]
		last += d
		if i := uint32(last); !seen[i] {
			seen[i] = true
			p = append(p, i)
		}
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes too many", ErrInvalid, len(b))
	}
	return p, nil
}

// Merge returns p followed by what is in older and not in p, at most MaxChunks
// chunks.
func (p Profile) Merge(older Profile) Profile {
	out := append(make(Profile, 0, len(p)+len(older)), p...)
	seen := make(map[uint32]bool, len(p))
	for _, i := range p {
		seen[i] = true
	}
	for _, i := range older {
		if !seen[i] {
			out = append(out, i)
		}
	}
	return out[:min(len(out), MaxChunks)]
}
