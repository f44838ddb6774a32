package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
)

// modeString shows type and permission bits of an entry as ls(1) does.
func modeString(e api.Entry) string {
	kind := map[string]byte{
		api.TypeFile: '-', api.TypeDir: 'd', api.TypeSymlink: 'l', api.TypeFIFO: 'p',
		api.TypeSocket: 's', api.TypeChar: 'c', api.TypeBlock: 'b',
	}[e.Type]
	if kind == 0 {
		kind = '?'
	}
	b := []byte{kind}
	for shift := 6; shift >= 0; shift -= 3 {
		bits := e.Mode >> shift
		for i, c := range []byte("rwx") {
			if bits&(4>>i) == 0 {
				c = '-'
			}
			b = append(b, c)
		}
	}
	special := func(bit uint32, at int, set byte) {
		if e.Mode&bit == 0 {
			return
		}
		if b[at] == '-' {
			set -= 'a' - 'A' // the execute bit itself is missing
		}
		b[at] = set
	}
	special(unix.S_ISUID, 3, 's')
	special(unix.S_ISGID, 6, 's')
	special(unix.S_ISVTX, 9, 't')
	return string(b)
}

// sizeOrDevice shows what ls(1) has in the column of the size.
func sizeOrDevice(e api.Entry) string {
	if e.Type == api.TypeChar || e.Type == api.TypeBlock {
		return fmt.Sprintf("%d, %d", unix.Major(e.Rdev), unix.Minor(e.Rdev))
	}
	return fmt.Sprint(e.Size)
}

// nameAndTarget shows a name, and where a symlink leads.
func nameAndTarget(name string, e api.Entry) string {
	if e.Type == api.TypeSymlink {
		return quote(name) + " -> " + quote(e.Target)
	}
	return quote(name)
}

// baseName returns the last element of an entry's path, "/" for the root.
func baseName(path string) string {
	if path == "" || path == "/" {
		return "/"
	}
	return path[strings.LastIndexByte(path, '/')+1:]
}
