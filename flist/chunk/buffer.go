package chunk

import (
	"context"
	"math/bits"
	"sync"
)

// Buffers are pooled by capacity: powers of two from 4 KiB to 2 MiB.
const (
	minBufferBits = 12
	maxBufferBits = 21
)

var pools [maxBufferBits - minBufferBits + 1]sync.Pool

// NewBuffer returns n bytes to read a chunk into. They hold anything. A chunk
// in flight takes a buffer, and most of a node's memory; whoever knows that
// nobody uses it any more may give it back with Recycle.
func NewBuffer(n int) []byte {
	k := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if k > maxBufferBits {
		return make([]byte, n)
	}
	if b, ok := pools[k-minBufferBits].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, 1<<k)
}

// Recycle takes back a buffer of NewBuffer, which nobody may use from now on.
// It ignores any other of an odd size, and so parts of a buffer.
func Recycle(b []byte) {
	k := bits.Len(uint(cap(b))) - 1
	if k < minBufferBits || k > maxBufferBits || cap(b) != 1<<k {
		return
	}
	pools[k-minBufferBits].Put(&b)
}

// Owner is what a Source is besides if it can give content that nobody else
// has, so that the caller may change it or give it to Recycle.
type Owner interface {
	GetOwned(ctx context.Context, id ID) ([]byte, error)
}
