package pack

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
)

// xattrReader reads extended attributes. Kept are those of the namespaces
// user, security and trusted and the POSIX ACLs; others (system.nfs4_acl,
// btrfs.*) belong to one file system. It belongs to one goroutine.
type xattrReader struct {
	buf []byte
}

// target is where xattrs are read from: an open file, or a path whose last
// name may be a symlink, which is not followed.
type target struct {
	fd   int
	path string // used if not ""
}

func (t target) list(b []byte) (int, error) {
	if t.path != "" {
		return unix.Llistxattr(t.path, b)
	}
	return unix.Flistxattr(t.fd, b)
}

func (t target) get(name string, b []byte) (int, error) {
	if t.path != "" {
		return unix.Lgetxattr(t.path, name, b)
	}
	return unix.Fgetxattr(t.fd, name, b)
}

// read returns the xattrs of t in the order the kernel lists them.
func (x *xattrReader) read(t target) ([]flist.Xattr, error) {
	if x.buf == nil {
		x.buf = make([]byte, 64<<10) // XATTR_LIST_MAX and XATTR_SIZE_MAX
	}
	n, err := t.list(x.buf)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var attrs []flist.Xattr
	for name := range bytes.SplitSeq(bytes.Clone(x.buf[:n]), []byte{0}) {
		if !keptXattr(string(name)) {
			continue
		}
		n, err := t.get(string(name), x.buf)
		if errors.Is(err, unix.ENODATA) { // removed meanwhile
			return nil, ErrChanging
		}
		if err != nil {
			return nil, fmt.Errorf("get extended attribute %q: %w", name, err)
		}
		attrs = append(attrs, flist.Xattr{Name: name, Value: bytes.Clone(x.buf[:n])})
	}
	return attrs, nil
}

func keptXattr(name string) bool {
	switch space, _, _ := strings.Cut(name, "."); space {
	case "user", "security", "trusted":
		return true
	}
	return name == "system.posix_acl_access" || name == "system.posix_acl_default"
}
