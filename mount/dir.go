package mount

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/flistnode/flistnode/flist"
)

// Offsets in a directory: 0 is ".", 1 is "..", 2+i the i-th entry. They stay
// valid for ever, so seekdir works, and no directory needs a handle.
const firstEntry = 2

// OpenDir says that directories need not be opened: the kernel then stops
// asking and keeps what it has read of them.
func (f *fileSystem) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.stats.count(opOpenDir)
	if f.noOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// ReadDir lists a directory from in.Offset on.
func (f *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.stats.count(opReadDir)
	return f.list(in, func(e fuse.DirEntry, _ flist.Inode) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus is ReadDir with a look-up of each name.
func (f *fileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.stats.count(opReadDirPlus)
	return f.list(in, func(e fuse.DirEntry, ino flist.Inode) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Off > firstEntry { // "." and ".." carry no look-up
			f.entry(ino, entry)
		}
		return true
	})
}

// list calls add with the entries from in.Offset on until it returns false.
func (f *fileSystem) list(in *fuse.ReadIn, add func(fuse.DirEntry, flist.Inode) bool) fuse.Status {
	dir, ok := f.inode(in.NodeId)
	if !ok {
		return statusNoInode
	}
	if f.im.Mode(dir)&flist.ModeType != flist.ModeDir {
		return statusNoDir
	}
	if in.Offset == 0 && !add(fuse.DirEntry{Name: ".", Mode: flist.ModeDir, Ino: node(dir), Off: 1}, dir) {
		return fuse.OK
	}
	if in.Offset <= 1 && !add(fuse.DirEntry{Name: "..", Mode: flist.ModeDir, Ino: node(f.im.Parent(dir)), Off: firstEntry}, dir) {
		return fuse.OK
	}
	first, end := f.im.Entries(dir)
	skip := max(in.Offset, firstEntry) - firstEntry
	if skip >= uint64(end-first) {
		return fuse.OK
	}
	for i := first + int(skip); i < end; i++ {
		name, ino := f.im.Entry(i)
		e := fuse.DirEntry{
			Name: unsafe.String(unsafe.SliceData(name), len(name)), // copied by add
			Mode: f.im.Mode(ino), Ino: node(ino), Off: uint64(i-first) + firstEntry + 1,
		}
		if !add(e, ino) {
			break
		}
	}
	return fuse.OK
}
