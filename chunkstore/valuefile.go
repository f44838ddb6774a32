package chunkstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/flistnode/flistnode/flist/chunk"
)

// valueFiles reads values from the files of Badger's value log, past Badger,
// which reads them through mappings. A fault in a mapping makes the kernel read
// as much around it as the disk's readahead says (8 MiB on some), which is too
// much for values that lie apart, and keeps one of Go's processors until it has
// come. read(2) brings just the value, more from value to value if they follow
// one another, and lets other goroutines run.
//
// It is for values whose content is verified. Whatever goes wrong here, Badger
// is asked, who says what it is.
type valueFiles struct {
	dir string

	mu    sync.Mutex
	files map[uint32]*valueFile // by number; nil once closed
}

type valueFile struct {
	*os.File
	users int  // guarded by valueFiles.mu
	drop  bool // to be closed by its last user
}

// maxValueFiles bounds the open files: 16 GiB of values.
const maxValueFiles = 64

// place is where a value lies in Badger's value log: Badger's valuePointer.
type place struct{ file, size, offset uint32 }

// placeOf returns the place of an item's value, false if it has none. Badger
// does not tell it, so a field is read that is not exported.
func placeOf(item *badger.Item) (place, bool) {
	field := reflect.ValueOf(item).Elem().FieldByName("vptr")
	if !field.IsValid() || field.Kind() != reflect.Slice || field.Type().Elem().Kind() != reflect.Uint8 {
		return place{}, false
	}
	b := field.Bytes()
	if len(b) != 12 {
		return place{}, false
	}
	order := binary.NativeEndian
	return place{order.Uint32(b), order.Uint32(b[4:]), order.Uint32(b[8:])}, true
}

// open gives the value of the item of a chunk to open, which must verify it.
func (v *valueFiles) open(item *badger.Item, id chunk.ID, open func(chunk.Packed) error) error {
	p, ok := placeOf(item)
	if !ok || p.size > 2*chunk.MaxPackedSize {
		return errElsewhere
	}
	f := v.take(p.file)
	if f == nil {
		return errElsewhere
	}
	defer v.release(f)
	buf := chunk.NewBuffer(int(p.size))
	defer chunk.Recycle(buf)
	if _, err := f.ReadAt(buf, int64(p.offset)); err != nil {
		return err
	}
	value, ok := valueOf(buf, chunkKey(id))
	if !ok {
		return errElsewhere
	}
	packed, err := chunk.ParsePacked(id, value)
	if err != nil {
		return err
	}
	return open(packed)
}

// errElsewhere says that Badger must be asked.
var errElsewhere = errors.New("value is not where it was looked for")

// valueOf returns the value in an entry of Badger's value log: two bytes, the
// lengths of key and value and a time as varints, key, value, checksum. The key
// has eight bytes of version behind it.
func valueOf(entry, key []byte) (value []byte, ok bool) {
	if len(entry) < 2 {
		return nil, false
	}
	rest := entry[2:]
	var numbers [3]uint64
	for i := range numbers {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			return nil, false
		}
		numbers[i], rest = n, rest[size:]
	}
	keyLen, valueLen := numbers[0], numbers[1]
	if keyLen != uint64(len(key))+8 || valueLen > uint64(len(rest)) || keyLen > uint64(len(rest))-valueLen || !bytes.HasPrefix(rest, key) {
		return nil, false
	}
	return rest[keyLen:][:valueLen], true
}

func (v *valueFiles) take(number uint32) *valueFile {
	v.mu.Lock()
	defer v.mu.Unlock()
	f, ok := v.files[number]
	if !ok {
		opened, err := os.Open(filepath.Join(v.dir, fmt.Sprintf("%06d.vlog", number)))
		if err != nil {
			return nil
		}
		if len(v.files) >= maxValueFiles || v.files == nil {
			v.dropAll()
			v.files = make(map[uint32]*valueFile)
		}
		f = &valueFile{File: opened}
		v.files[number] = f
	}
	f.users++
	return f
}

func (v *valueFiles) release(f *valueFile) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.users--; f.users == 0 && f.drop {
		_ = f.Close()
	}
}

// close closes all files, which are opened again when they are needed: an open
// one keeps its space on the disk after Badger has removed it.
func (v *valueFiles) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dropAll()
}

func (v *valueFiles) dropAll() {
	for _, f := range v.files {
		if f.drop = true; f.users == 0 {
			_ = f.Close()
		}
	}
	v.files = nil
}
