package mount

import (
	"sync"
	"sync/atomic"
)

// touches records the order in which chunks are first read. A chunk that was
// read before costs one load.
type touches struct {
	seen []atomic.Uint32 // a bit for each chunk

	mu    sync.Mutex
	order []uint32
}

func newTouches(chunks int) *touches {
	return &touches{seen: make([]atomic.Uint32, (chunks+31)/32)}
}

func (t *touches) add(chunk uint32) {
	word, bit := &t.seen[chunk/32], uint32(1)<<(chunk%32)
	if word.Load()&bit != 0 || word.Or(bit)&bit != 0 {
		return
	}
	t.mu.Lock()
	t.order = append(t.order, chunk)
	t.mu.Unlock()
}

// Touched returns the data chunks that were read so far, in the order in which
// they were first read, from the n-th on.
func (m *Mount) Touched(n int) []uint32 {
	m.touched.mu.Lock()
	defer m.touched.mu.Unlock()
	return append([]uint32(nil), m.touched.order[min(n, len(m.touched.order)):]...)
}
