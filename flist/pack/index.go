package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// indexEntries is how many distinct contents an index remembers: the first
// ones in canonical order, so that what is found never depends on timing.
// Equal content further on is laid down again; its chunks still have the same
// names, so only tables grow by it.
const indexEntries = 1 << 20

const (
	indexSlots     = 2 * indexEntries
	indexEntrySize = sha256.Size + 8
)

// index finds where in a stream content with a given SHA-256 was laid down.
// Its memory is mapped, not allocated: untouched pages cost nothing, and the
// garbage collector does not keep as much again free for it.
// Only the sequencer uses it.
type index struct {
	mem   []byte // slots (uint32 entry number + 1), then entries (digest, start)
	count int
}

func newIndex() (*index, error) {
	mem, err := unix.Mmap(-1, 0, 4*indexSlots+indexEntries*indexEntrySize,
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map memory for the index of contents: %w", err)
	}
	return &index{mem: mem}, nil
}

// get returns where the content sum names begins.
func (x *index) get(sum *[sha256.Size]byte) (start uint64, ok bool) {
	_, e := x.find(sum)
	if e == nil {
		return 0, false
	}
	return binary.NativeEndian.Uint64(e[sha256.Size:]), true
}

// put remembers the content sum names, which get has not found, unless the
// index is full.
func (x *index) put(sum *[sha256.Size]byte, start uint64) {
	if x.count == indexEntries {
		return
	}
	slot, _ := x.find(sum)
	e := x.entry(x.count)
	copy(e, sum[:])
	binary.NativeEndian.PutUint64(e[sha256.Size:], start)
	x.count++
	binary.NativeEndian.PutUint32(slot, uint32(x.count))
}

// find returns the entry of sum, or nil and the slot it would take. Half of
// the slots stay free, so it ends.
func (x *index) find(sum *[sha256.Size]byte) (slot, entry []byte) {
	for h := binary.LittleEndian.Uint64(sum[8:]); ; h++ {
		i := h % indexSlots * 4
		slot = x.mem[i : i+4]
		n := binary.NativeEndian.Uint32(slot)
		if n == 0 {
			return slot, nil
		}
		if e := x.entry(int(n - 1)); [sha256.Size]byte(e[:sha256.Size]) == *sum {
			return slot, e
		}
	}
}

func (x *index) entry(i int) []byte {
	return x.mem[4*indexSlots+i*indexEntrySize:][:indexEntrySize]
}

func (x *index) close() error {
	if x.mem == nil {
		return nil
	}
	mem := x.mem
	x.mem = nil
	return unix.Munmap(mem)
}
