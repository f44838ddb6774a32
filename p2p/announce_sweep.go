package p2p

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-libdht/kad/key/bitstr"
	mh "github.com/multiformats/go-multihash"
)

const (
	// sweepBits cuts the key space into 512 parts, of 2000 keys at a million.
	sweepBits  = 9
	sweepParts = 1 << sweepBits
	// sweepBatch is how many keys are enough for one batch: the peers near a part
	// of the key space are looked up once for all of them.
	sweepBatch = 2048
)

// sweep goes through the key space part by part and remembers when each was
// last announced. The zero value has announced nothing.
type sweep struct {
	at    [sweepParts]time.Time
	next0 int // where the next look begins
}

// prefixKeys gives the keys below a prefix of the key space.
type prefixKeys interface {
	Get(ctx context.Context, prefix bitstr.Key) ([]mh.Multihash, error)
}

// reset makes all parts due.
func (s *sweep) reset() { *s = sweep{} }

// next returns the keys of the next parts whose announcement is older than
// interval, about a batch of them and of a contiguous piece of the key space,
// and notes that these are announced. It returns none when none is due.
func (s *sweep) next(ctx context.Context, keys prefixKeys, interval time.Duration, now time.Time) (due []mh.Multihash, err error) {
	for range sweepParts {
		i := s.next0
		if now.Sub(s.at[i]) >= interval {
			part, err := keys.Get(ctx, bitstr.Key(fmt.Sprintf("%0*b", sweepBits, i)))
			if err != nil {
				return nil, err
			}
			due = append(due, part...)
			s.at[i] = now
		}
		s.next0 = (i + 1) % sweepParts
		if len(due) >= sweepBatch || s.next0 == 0 && len(due) > 0 {
			break
		}
	}
	return due, nil
}

// past reports whether the part k is in has been announced, so that k itself
// will not be before an interval is over.
func (s *sweep) past(k mh.Multihash) bool {
	place := sha256.Sum256(k) // Kademlia's place of a key
	return !s.at[binary.BigEndian.Uint16(place[:])>>(16-sweepBits)].IsZero()
}

// oldest returns when the part was announced whose turn is the longest ago,
// the zero time if some part never was.
func (s *sweep) oldest() time.Time {
	return slices.MinFunc(s.at[:], func(a, b time.Time) int { return a.Compare(b) })
}
