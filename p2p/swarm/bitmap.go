package swarm

import "math/bits"

// bitmap is a set of places in a chunk table.
type bitmap []uint64

func newBitmap(n int) bitmap       { return make(bitmap, (n+63)/64) }
func (b bitmap) has(i uint32) bool { return b[i/64]>>(i%64)&1 != 0 }
func (b bitmap) set(i uint32)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) clear(i uint32)    { b[i/64] &^= 1 << (i % 64) }
func (b bitmap) count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

func (b bitmap) bytes(n int) []byte {
	out := make([]byte, (n+7)/8)
	for i := range out {
		out[i] = byte(b[i/8] >> (i % 8 * 8))
	}
	return out
}

func (b bitmap) fill(from []byte) {
	for i, v := range from {
		b[i/8] |= uint64(v) << (i % 8 * 8)
	}
}

// each calls yield for the places in the set.
func (b bitmap) each(yield func(uint32) bool) {
	for w, v := range b {
		for ; v != 0; v &= v - 1 {
			if !yield(uint32(w*64 + bits.TrailingZeros64(v))) {
				return
			}
		}
	}
}
