// Package flist is the image format: it encodes a POSIX tree into a root
// block and a few plain tables, loads such tables, and looks things up in
// them. The format itself is specified in docs/format.md.
//
// An Image is a loaded flist. It is immutable, may be used by any number of
// goroutines, and after Load none of its look-ups can fail. A Builder writes
// an flist; it belongs to one goroutine.
//
// The package neither reads directories (that is flist/pack) nor writes them
// (flist/unpack), and it knows chunks only through chunk.Source and
// chunk.Sink.
package flist

import (
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Version is the version of the format this package reads and writes.
const Version = 1

// Inode is the number of an inode: its place in the inode table.
type Inode uint32

// RootInode is the root directory of every image.
const RootInode Inode = 0

// Time is a point in time as stat(2) gives it: seconds since 1970 (negative
// before) and nanoseconds, 0 to 999,999,999.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Attr is what stat(2) and statx(2) tell about an inode.
type Attr struct {
	Mode     uint32 // type (S_IFMT) and the 12 permission bits
	UID, GID uint32
	Rdev     uint64 // as unix.Mkdev(major, minor); 0 but for devices
	Size     uint64 // bytes of a file's content or a symlink's target; else 0
	Nlink    uint32 // names in the image; directories: 2 + subdirectories
	Mtime    Time
	Btime    Time // the birth time; only if HasBtime
	HasBtime bool
}

// The types in Attr.Mode, as in inode(7).
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
	ModePerm    = 0o007777
)

// IsDir reports whether a is a directory.
func (a Attr) IsDir() bool { return a.Mode&ModeType == ModeDir }

// IsRegular reports whether a is a regular file.
func (a Attr) IsRegular() bool { return a.Mode&ModeType == ModeRegular }

// IsSymlink reports whether a is a symbolic link.
func (a Attr) IsSymlink() bool { return a.Mode&ModeType == ModeSymlink }

// IsDevice reports whether a is a character or block device.
func (a Attr) IsDevice() bool { return a.Mode&ModeType == ModeChar || a.Mode&ModeType == ModeBlock }

// Xattr is one extended attribute; the name carries its namespace
// ("user.mime_type").
type Xattr struct{ Name, Value []byte }

// Limits of what an flist can hold, in bytes. They are those of Linux.
const (
	MaxName       = 255
	MaxTarget     = 4095
	MaxXattrName  = 255
	MaxXattrValue = 64 << 10
)

// MaxTableBytes bounds the tables of one flist that Load accepts, in bytes:
// about 15 million entries.
const MaxTableBytes = 1 << 30

// ErrNotFlist says that a CID or a file is something else than an flist.
var ErrNotFlist = errors.New("not an flist")

// VersionError says that an flist is of a version this program does not know.
type VersionError struct{ Version uint64 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("flist is of format version %d, this program knows version %d: use a newer flistnode", e.Version, Version)
}

// FormatError says that an flist breaks a rule of the format.
type FormatError struct {
	Section string // the table at fault, or "root block"
	Reason  string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("malformed flist: %s: %s", e.Section, e.Reason)
}

func malformed(section, format string, args ...any) error {
	return &FormatError{Section: section, Reason: fmt.Sprintf(format, args...)}
}

// ParseCID reads an flist CID: version 1, dag-cbor, SHA2-256. The error says
// what the string is instead and matches ErrNotFlist when it is another kind
// of CID.
func ParseCID(s string) (cid.Cid, error) {
	c, err := cid.Decode(s)
	if err != nil {
		return cid.Undef, fmt.Errorf("%q is not a CID: %w", s, err)
	}
	return c, checkCID(c)
}

func checkCID(c cid.Cid) error {
	if !c.Defined() || c.Version() != 1 || c.Type() != cid.DagCBOR {
		return fmt.Errorf("%w: CID %s does not name a dag-cbor block, as an flist CID does", ErrNotFlist, c)
	}
	if _, err := chunk.FromCID(c); err != nil {
		return fmt.Errorf("%w: CID %s: %w", ErrNotFlist, c, err)
	}
	return nil
}
