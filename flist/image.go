package flist

import (
	"bytes"
	"fmt"
	"io/fs"
	"iter"
	"sort"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Image is a loaded flist: its tables as they are in the metadata chunks,
// checked once, with running sums in place of counts. It is immutable and may
// be used concurrently. Inodes and indexes given to its methods must come
// from the same Image; then no method can fail and, unless said, none
// allocates.
//
// An Image is a reference to its tables, which may be mapped memory. Whoever
// has it calls Close once nobody uses it, or a slice it gave, any more; Share
// gives a reference to somebody else. A closed Image has no tables, so a
// look-up in it panics and cannot reach what is no longer mapped.
type Image struct {
	cid  cid.Cid
	root *Root
	tables
	mem *memory // nil once closed
}

// tables are the columns of an Image.
type tables struct {
	// one record an inode
	attr                 u32s
	mtimeSec, btimeSec   u64s
	mtimeNsec, btimeNsec u32s
	span                 spans // the inode's entries, extents, or target bytes
	nlink                u32s  // names; directories: 2 + subdirectories

	attrs  []byte // attrSize bytes a record
	xattrs xattrSets

	dirs    u32s // all directories, ascending
	link    u32s // entry -> inode
	again   u32s // the entries that are further names of an inode
	nameEnd u32s // entry -> end of its name in names, the NUL not counted
	names   []byte

	extentStart u64s   // extent -> position in the data, or holeStart
	extentEnd   u64s   // extent -> end in the file
	chunkEnd    u64s   // chunk -> end in the data: both streams in a row
	chunkID     []byte // 32 bytes a chunk
	targets     []byte
}

// holeStart is the position of bytes that are nowhere.
const holeStart = codeHole

// Share returns another reference to the same tables, which has its own Close.
// It must not be called during or after Close.
func (im *Image) Share() *Image {
	if im.mem == nil {
		panic("flist: a closed image is shared")
	}
	im.mem.refs.Add(1)
	shared := *im
	return &shared
}

// Close gives the reference back; the last one frees the tables. It must not
// be called while im is used. A second Close does nothing. CID and Root stay
// valid.
func (im *Image) Close() {
	mem := im.mem
	if mem == nil {
		return
	}
	im.mem, im.tables = nil, tables{}
	mem.release()
}

// CID returns the name of the image.
func (im *Image) CID() cid.Cid { return im.cid }

// Root returns the root block, which is shared and must not be modified.
func (im *Image) Root() *Root { return im.root }

// NumInodes returns the number of inodes; they are 0 to NumInodes-1.
func (im *Image) NumInodes() int { return im.span.len() }

// record returns the attribute record of ino.
func (im *Image) record(ino Inode) u32s {
	i := int(im.attr.at(int(ino))) * attrSize
	return u32s(im.attrs[i : i+attrSize])
}

// Mode returns the type and permission bits of ino.
func (im *Image) Mode(ino Inode) uint32 { return im.record(ino).at(0) }

// Attr returns all that stat tells about ino.
func (im *Image) Attr(ino Inode) Attr {
	i, r := int(ino), im.record(ino)
	a := Attr{
		Mode: r.at(0), UID: r.at(1), GID: r.at(2), Rdev: unix.Mkdev(r.at(3), r.at(4)),
		Nlink: im.nlink.at(i),
		Mtime: Time{Sec: int64(im.mtimeSec.at(i)), Nsec: im.mtimeNsec.at(i)},
	}
	if ns := im.btimeNsec.at(i); ns != noBtime {
		a.Btime, a.HasBtime = Time{Sec: int64(im.btimeSec.at(i)), Nsec: ns}, true
	}
	switch a.Mode & ModeType {
	case ModeRegular:
		a.Size = im.fileSize(i)
	case ModeSymlink:
		a.Size = uint64(im.span.at(i).n)
	}
	return a
}

func (im *Image) fileSize(i int) uint64 {
	if s := im.span.at(i); s.n > 0 {
		return im.extentEnd.at(int(s.first + s.n - 1))
	}
	return 0
}

// Entries returns the half-open range of the entries of a directory, sorted
// by name bytewise; empty if dir is none.
func (im *Image) Entries(dir Inode) (first, end int) {
	if im.Mode(dir)&ModeType != ModeDir {
		return 0, 0
	}
	s := im.span.at(int(dir))
	return int(s.first), int(s.first + s.n)
}

// Entry returns the name and inode of an entry. The name is shared.
func (im *Image) Entry(i int) (name []byte, ino Inode) {
	return im.entryName(i), Inode(im.link.at(i))
}

func (im *Image) entryName(i int) []byte {
	first := uint32(0)
	if i > 0 {
		first = im.nameEnd.at(i-1) + 1
	}
	end := im.nameEnd.at(i)
	return im.names[first:end:end]
}

// Lookup finds name in a directory.
func (im *Image) Lookup(dir Inode, name []byte) (Inode, bool) {
	first, end := im.Entries(dir)
	lo, hi := first, end
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if bytes.Compare(im.entryName(mid), name) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < end && bytes.Equal(im.entryName(lo), name) {
		return Inode(im.link.at(lo)), true
	}
	return 0, false
}

// Resolve finds a path such as "/etc/passwd" or "etc/passwd" without
// following symlinks. Errors: fs.ErrNotExist, unix.ENOTDIR.
func (im *Image) Resolve(path []byte) (Inode, error) {
	ino := RootInode
	for part := range bytes.SplitSeq(path, []byte("/")) {
		if len(part) == 0 || len(part) == 1 && part[0] == '.' {
			continue
		}
		if im.Mode(ino)&ModeType != ModeDir {
			return 0, fmt.Errorf("%q in the image: %w", path, unix.ENOTDIR)
		}
		next, ok := im.Lookup(ino, part)
		if !ok {
			return 0, fmt.Errorf("%q in the image: %w", path, fs.ErrNotExist)
		}
		ino = next
	}
	return ino, nil
}

// firstEntry returns the entry that introduced ino, which is not the root.
// New inodes are numbered in the order of their entries, so ino's is entry
// ino-1, moved by the hard links that stand before it.
func (im *Image) firstEntry(ino Inode) int {
	before := sort.Search(im.again.len(), func(k int) bool { return int(im.again.at(k))-k > int(ino)-1 })
	return int(ino) - 1 + before
}

// Parent returns the directory of the first name of ino; the root's is the
// root.
func (im *Image) Parent(ino Inode) Inode {
	if ino == RootInode {
		return RootInode
	}
	return im.entryDir(im.firstEntry(ino))
}

// entryDir returns the directory that entry e stands in.
func (im *Image) entryDir(e int) Inode {
	k := sort.Search(im.dirs.len(), func(k int) bool {
		s := im.span.at(int(im.dirs.at(k)))
		return int(s.first+s.n) > e
	})
	return Inode(im.dirs.at(k))
}

// Path returns the first path of ino, "/" for the root. It allocates.
func (im *Image) Path(ino Inode) []byte {
	if ino == RootInode {
		return []byte("/")
	}
	var names [][]byte
	size := 0
	for ino != RootInode {
		e := im.firstEntry(ino)
		name := im.entryName(e)
		names = append(names, name)
		size += 1 + len(name)
		ino = im.entryDir(e)
	}
	path := make([]byte, 0, size)
	for i := len(names) - 1; i >= 0; i-- {
		path = append(append(path, '/'), names[i]...)
	}
	return path
}

// Target returns the target of a symlink; the slice is shared.
func (im *Image) Target(ino Inode) []byte {
	if im.Mode(ino)&ModeType != ModeSymlink {
		return nil
	}
	s := im.span.at(int(ino))
	return im.targets[s.first : s.first+s.n : s.first+s.n]
}

// Piece is a run of a file's bytes that lies in one chunk or in one hole.
type Piece struct {
	Offset      uint64 // in the file
	Length      uint64 // bytes, not 0
	Hole        bool   // the bytes are zeros; the rest is not set
	Chunk       uint32 // index of the chunk
	ChunkOffset uint32 // in the plain content of the chunk
}

// PieceAt returns the bytes of a file from off up to the end of their chunk
// or hole; false at or after the end of the file.
func (im *Image) PieceAt(ino Inode, off uint64) (Piece, bool) {
	if im.Mode(ino)&ModeType != ModeRegular {
		return Piece{}, false
	}
	s := im.span.at(int(ino))
	lo, hi := int(s.first), int(s.first+s.n)
	for lo < hi { // the first extent that ends after off
		mid := int(uint(lo+hi) >> 1)
		if im.extentEnd.at(mid) <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == int(s.first+s.n) {
		return Piece{}, false
	}
	begin := uint64(0)
	if lo > int(s.first) {
		begin = im.extentEnd.at(lo - 1)
	}
	p := Piece{Offset: off, Length: im.extentEnd.at(lo) - off}
	start := im.extentStart.at(lo)
	if start == holeStart {
		p.Hole = true
		return p, true
	}
	pos := start + (off - begin)
	p.Chunk = im.chunkAt(pos)
	p.Length = min(p.Length, im.chunkEnd.at(int(p.Chunk))-pos)
	p.ChunkOffset = uint32(pos - im.chunkBegin(p.Chunk))
	return p, true
}

// chunkAt returns the chunk that holds position pos of the data.
func (im *Image) chunkAt(pos uint64) uint32 {
	lo, hi := 0, im.chunkEnd.len()
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if im.chunkEnd.at(mid) <= pos {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return uint32(lo)
}

func (im *Image) chunkBegin(i uint32) uint64 {
	if i == 0 {
		return 0
	}
	return im.chunkEnd.at(int(i - 1))
}

// NumChunks returns the number of data chunks; they are 0 to NumChunks-1,
// packs first, in the order in which the tree uses them.
func (im *Image) NumChunks() int { return im.chunkEnd.len() }

// Chunk returns the name and plain size in bytes of a data chunk. The same
// chunk can stand in the table twice.
func (im *Image) Chunk(i uint32) (id chunk.ID, size int) {
	return chunk.ID(im.chunkID[int(i)*32:]), int(im.chunkEnd.at(int(i)) - im.chunkBegin(i))
}

// MetadataChunks lists the chunks of the image that are no data, the root
// block first, those of the digests only if asked. It allocates.
func (im *Image) MetadataChunks(digests bool) []chunk.ID {
	id, err := chunk.FromCID(im.cid)
	if err != nil {
		panic("flist: an image was loaded without a valid CID")
	}
	return append([]chunk.ID{id}, im.root.MetadataChunks(digests)...)
}

// Xattrs goes over the xattrs of ino, sorted by name. The slices are shared.
func (im *Image) Xattrs(ino Inode) iter.Seq2[[]byte, []byte] {
	return im.xattrs.all(im.record(ino).at(5))
}

// Xattr returns the value of one xattr of ino; the slice is shared.
func (im *Image) Xattr(ino Inode, name []byte) ([]byte, bool) {
	return im.xattrs.get(im.record(ino).at(5), name)
}

// HasXattrs reports whether ino has any xattrs.
func (im *Image) HasXattrs(ino Inode) bool { return im.record(ino).at(5) != 0 }
