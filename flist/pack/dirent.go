package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// eachDirent calls f for each entry in buf, which getdents64(2) has filled,
// except for "." and "..".
func eachDirent(buf []byte, f func(name string, typ uint8) error) error {
	const header = 19 // ino 8, off 8, reclen 2, type 1
	for len(buf) >= header {
		n := int(binary.NativeEndian.Uint16(buf[16:]))
		if n < header || n > len(buf) {
			break
		}
		name, _, _ := bytes.Cut(buf[header:n], []byte{0})
		typ := buf[18]
		buf = buf[n:]
		if s := string(name); s != "." && s != ".." {
			if err := f(s, typ); err != nil {
				return err
			}
		}
	}
	if len(buf) != 0 {
		return errors.New("getdents64 gave a malformed record")
	}
	return nil
}
