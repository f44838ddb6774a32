package mount

import (
	"context"
	"runtime/debug"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
)

// fileSystem answers the kernel's requests about metadata from the image's
// tables; read.go answers those about content, refuse.go those that would
// change something.
type fileSystem struct {
	fuse.RawFileSystem // for the requests of other systems and of notifications
	*Mount
	im     *flist.Image    // its own reference: requests may come when Run has returned
	reads  context.Context // ends all waiting reads; FUSE hands in no context
	stalls stalls

	noOpen, noOpenDir bool // the kernel can do without OPEN, OPENDIR
}

var _ fuse.RawFileSystem = (*fileSystem)(nil)

func newFileSystem(reads context.Context, m *Mount) *fileSystem {
	return &fileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), Mount: m, im: m.im.Share(), reads: reads}
}

// String is what go-fuse calls the file system in its messages.
func (f *fileSystem) String() string { return fsType }

// Init learns what the kernel can do.
func (f *fileSystem) Init(s *fuse.Server) {
	can := s.KernelSettings().Flags64()
	f.noOpen = can&fuse.CAP_NO_OPEN_SUPPORT != 0
	f.noOpenDir = can&fuse.CAP_NO_OPENDIR_SUPPORT != 0
}

// forever is how long the kernel may keep names and attributes, in seconds.
const forever = 1 << 31

// inode returns the inode of a FUSE node. The kernel knows only nodes it was
// told of, so false means a broken request. Every request comes by here before
// it looks at the tables, which may be a mapped file: a page that the disk does
// not give back is then a panic, which go-fuse hands to the PanicHandler, and
// not the end of the process.
func (f *fileSystem) inode(node uint64) (flist.Inode, bool) {
	debug.SetPanicOnFault(true)
	return flist.Inode(node - 1), node-1 < uint64(f.im.NumInodes())
}

// node is the opposite of inode. It is the inode number stat shows, too.
func node(ino flist.Inode) uint64 { return uint64(ino) + 1 }

// Lookup finds a name; one that does not exist is remembered as well.
func (f *fileSystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.stats.count(opLookup)
	dir, ok := f.inode(in.NodeId)
	if !ok {
		return statusNoInode
	}
	if f.im.Mode(dir)&flist.ModeType != flist.ModeDir {
		return statusNoDir
	}
	if ino, ok := f.im.Lookup(dir, bytesOf(name)); ok {
		f.entry(ino, out)
		return fuse.OK
	}
	if len(name) > flist.MaxName {
		return statusLongName // the kernel lets longer ones through
	}
	out.NodeId, out.EntryValid = 0, forever
	return fuse.OK
}

func (f *fileSystem) entry(ino flist.Inode, out *fuse.EntryOut) {
	out.NodeId, out.Generation = node(ino), 0
	out.EntryValid, out.AttrValid = forever, forever
	f.attr(ino, &out.Attr)
}

// bytesOf is s without a copy, to be read only.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// GetAttr is stat.
func (f *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.stats.count(opGetAttr)
	ino, ok := f.inode(in.NodeId)
	if !ok {
		return statusNoInode
	}
	out.AttrValid = forever
	f.attr(ino, &out.Attr)
	return fuse.OK
}

func (f *fileSystem) attr(ino flist.Inode, out *fuse.Attr) {
	a := f.im.Attr(ino)
	size, blocks := f.extent(ino, &a)
	// Seconds travel unsigned and are taken as signed by the kernel.
	sec, nsec := uint64(a.Mtime.Sec), a.Mtime.Nsec
	*out = fuse.Attr{
		Ino: node(ino), Size: size, Blocks: blocks, Blksize: blockSize,
		Mtime: sec, Mtimensec: nsec, Atime: sec, Atimensec: nsec, Ctime: sec, Ctimensec: nsec,
		Mode: a.Mode, Nlink: a.Nlink, Owner: fuse.Owner{Uid: a.UID, Gid: a.GID}, Rdev: rdev(a.Rdev),
	}
}

const (
	blockSize = 4096 // what stat calls the best size of a read
	dirSize   = 4096 // what stat calls the size of a directory
	sector    = 512  // the unit of stat's blocks
)

// extent returns size in bytes and space in sectors as stat shows them. Holes
// take no space.
func (f *fileSystem) extent(ino flist.Inode, a *flist.Attr) (size, blocks uint64) {
	switch {
	case a.IsDir():
		return dirSize, dirSize / sector
	case a.IsRegular():
		return a.Size, (f.im.DataBytes(ino) + sector - 1) / sector
	}
	return a.Size, 0
}

// rdev encodes a device number as Linux does on the wire (new_encode_dev): 12
// bits of major and 20 bits of minor, which is all Linux has.
func rdev(dev uint64) uint32 {
	major, minor := unix.Major(dev), unix.Minor(dev)
	return minor&0xff | (major&0xfff)<<8 | (minor&0xfff00)<<12
}

// Statx is stat with the birth time.
func (f *fileSystem) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	f.stats.count(opStatx)
	ino, ok := f.inode(in.NodeId)
	if !ok {
		return statusNoInode
	}
	a := f.im.Attr(ino)
	out.AttrValid = forever
	st := &out.Statx
	st.Mask, st.Blksize, st.Nlink = unix.STATX_BASIC_STATS, blockSize, a.Nlink
	st.Uid, st.Gid, st.Mode, st.Ino = a.UID, a.GID, uint16(a.Mode), node(ino)
	st.Size, st.Blocks = f.extent(ino, &a)
	mtime := sxTime(a.Mtime)
	st.Mtime, st.Atime, st.Ctime = mtime, mtime, mtime
	if a.HasBtime {
		st.Mask |= unix.STATX_BTIME
		st.Btime = sxTime(a.Btime)
	}
	st.RdevMajor, st.RdevMinor = unix.Major(a.Rdev), unix.Minor(a.Rdev)
	return fuse.OK
}

func sxTime(t flist.Time) fuse.SxTime { return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec} }

// Readlink returns the target of a symlink.
func (f *fileSystem) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	f.stats.count(opReadlink)
	ino, ok := f.inode(in.NodeId)
	if !ok {
		return nil, statusNoInode
	}
	target := f.im.Target(ino)
	if target == nil {
		return nil, fuse.EINVAL
	}
	return target, fuse.OK
}

// StatFs shows the image as a full file system of its own size.
func (f *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	f.stats.count(opStatFs)
	root := f.im.Root()
	blocks := root.Bytes / blockSize
	if root.Bytes%blockSize != 0 {
		blocks++
	}
	*out = fuse.StatfsOut{
		Blocks: blocks, Files: root.Counts.Inodes, Bsize: blockSize, Frsize: blockSize,
		NameLen: flist.MaxName,
	}
	return fuse.OK
}

// Access is left to the kernel, which checks modes and ACLs itself
// (default_permissions).
func (f *fileSystem) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// Forget has nothing to forget.
func (f *fileSystem) Forget(uint64, uint64) {}
