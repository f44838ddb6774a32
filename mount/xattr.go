package mount

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// GetXAttr copies the value of an xattr; with no room it tells the size.
// POSIX ACLs (system.posix_acl_access and _default) are xattrs like others.
func (f *fileSystem) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	f.stats.count(opGetXAttr)
	ino, ok := f.inode(in.NodeId)
	if !ok {
		return 0, statusNoInode
	}
	if f.layers != nil {
		if name, ok = fromOverlay(name); !ok {
			return 0, statusNoXattr
		}
	}
	value, ok := f.im.Xattr(ino, bytesOf(name))
	if !ok {
		return 0, noXattr(name)
	}
	if len(value) > len(dest) {
		return uint32(len(value)), statusNoRoom
	}
	return uint32(copy(dest, value)), fuse.OK
}

// noXattr says why there is no such xattr: none of its kind, or not here.
func noXattr(name string) fuse.Status {
	space, _, _ := strings.Cut(name, ".")
	switch space {
	case "user", "trusted", "security", "system":
		return statusNoXattr
	}
	return statusNoSpace
}

// ListXAttr lists the names, each with a NUL behind it. As on other file
// systems trusted names are shown to root only.
func (f *fileSystem) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	f.stats.count(opListXAttr)
	ino, ok := f.inode(in.NodeId)
	if !ok {
		return 0, statusNoInode
	}
	size := 0
	for name := range f.im.Xattrs(ino) {
		if in.Uid != 0 && bytes.HasPrefix(name, []byte("trusted.")) {
			continue
		}
		at, insert := 0, ""
		if f.layers != nil {
			at, insert = toOverlay(name)
		}
		end := size + len(name) + len(insert) + 1
		if end <= len(dest) {
			n := size + copy(dest[size:], name[:at])
			n += copy(dest[n:], insert)
			copy(dest[n:], name[at:])
			dest[end-1] = 0
		}
		size = end
	}
	if size > len(dest) {
		return uint32(size), statusNoRoom
	}
	return uint32(size), fuse.OK
}
