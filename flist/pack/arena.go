package pack

import "sync"

// arena holds the content of a batch's small files back to back.
type arena struct{ buf []byte }

var arenas = sync.Pool{New: func() any { return &arena{buf: make([]byte, 0, 128<<10)} }}

func getArena() *arena { return arenas.Get().(*arena) }

// free gives a back. Slices returned by read are invalid from then on.
func (a *arena) free() {
	a.buf = a.buf[:0]
	arenas.Put(a)
}

// room returns n bytes that read may fill and keep.
func (a *arena) room(n int) []byte {
	if cap(a.buf)-len(a.buf) < n {
		a.buf = make([]byte, 0, max(n, batchEntries*SmallFile/4)) // earlier slices keep the old one
	}
	return a.buf[len(a.buf):][:n]
}

// read reads a file that claims to have size bytes. whole is false if it turns
// out to have SmallFile bytes or more; nothing is kept then.
func (a *arena) read(fd, size int) (data []byte, whole bool, err error) {
	want := size + 1 // one more, so that the end shows at once
	if size == 0 {
		want = 512
	}
	n := 0
	for {
		b := a.room(want)
		k, err := pread(fd, b[n:want], int64(n))
		if err != nil {
			return nil, false, err
		}
		n += k
		if k == 0 || size > 0 && n == size {
			break
		}
		if n == want {
			if n >= SmallFile {
				return nil, false, nil
			}
			// There is more than the size says, as in /proc: begin again with room.
			n, want, size = 0, SmallFile, 0
		}
	}
	a.buf = a.buf[:len(a.buf)+n]
	return a.buf[len(a.buf)-n:][:n:n], true, nil
}
