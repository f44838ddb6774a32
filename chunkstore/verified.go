package chunkstore

import (
	"sync"

	"github.com/flistnode/flistnode/flist/chunk"
)

// maxVerified bounds the IDs remembered, some 10 MiB of memory.
const maxVerified = 1 << 17

// verified remembers chunks whose content was hashed since the store was
// opened: read back from the disk, or put. What the disk does to them
// afterwards the checksum of the record finds.
type verified struct {
	mu  sync.RWMutex
	ids map[chunk.ID]struct{}
}

func (v *verified) has(id chunk.ID) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, ok := v.ids[id]
	return ok
}

func (v *verified) add(id chunk.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ids == nil || len(v.ids) >= maxVerified {
		v.ids = make(map[chunk.ID]struct{}) // all are verified again
	}
	v.ids[id] = struct{}{}
}

func (v *verified) remove(id chunk.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.ids, id)
}
