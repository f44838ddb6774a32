package pack

import (
	"sync"
	"sync/atomic"
)

// buffer holds the content of chunks until the last of them is packed.
type buffer struct {
	b     []byte
	users atomic.Int32 // whoever fills it, and each chunk in it that is not packed
	pool  *bufferPool
}

// bufferPool hands out buffers of one size.
type bufferPool struct {
	bytes int
	free  sync.Pool
}

// slabs hold what is read of large files, packs small files side by side.
var (
	slabs = &bufferPool{bytes: 2 * CutMax}
	packs = &bufferPool{bytes: PackMax}
)

// get returns an empty buffer with one user.
func (p *bufferPool) get() *buffer {
	buf, ok := p.free.Get().(*buffer)
	if !ok {
		buf = &buffer{b: make([]byte, 0, p.bytes), pool: p}
	}
	buf.users.Store(1)
	return buf
}

// release says that one user is done. What the buffer holds is invalid after
// the last.
func (b *buffer) release() {
	if b.users.Add(-1) == 0 {
		b.b = b.b[:0]
		b.pool.free.Put(b)
	}
}
