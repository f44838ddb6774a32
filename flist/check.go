package flist

import (
	"bytes"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist/chunk"
)

// cut cuts the tables into columns, and returns those that only check looks at.
func (im *Image) cut(l *layout) (raw rawColumns) {
	c := &im.root.Counts
	cut := func(b *[]byte, n uint64) []byte {
		head := (*b)[:n:n]
		*b = (*b)[n:]
		return head
	}
	var t [mountTables][]byte
	for i, p := range l.sections {
		t[i] = im.mem.part(p)
	}
	inodes, entries, extents, chunks := t[0], t[1], t[3], t[4]
	im.attr = u32s(cut(&inodes, c.Inodes*4))
	im.mtimeSec, im.mtimeNsec = u64s(cut(&inodes, c.Inodes*8)), u32s(cut(&inodes, c.Inodes*4))
	im.btimeSec, im.btimeNsec = u64s(cut(&inodes, c.Inodes*8)), u32s(cut(&inodes, c.Inodes*4))
	raw.dirCount = u32s(cut(&entries, c.Directories*4))
	im.link = u32s(entries)
	raw.fileExtents = u32s(cut(&extents, c.Files*4))
	im.extentStart, im.extentEnd = u64s(cut(&extents, c.Extents*8)), u64s(extents)
	raw.lengths = u32s(cut(&chunks, (c.Packs+c.Cuts)*4))
	im.chunkID, im.names, im.targets, im.attrs = chunks, t[2], t[5], t[6]
	raw.xattrs = t[7]
	im.span, im.nlink, im.nameEnd = im.mem.part(l.span), im.mem.part(l.nlink), im.mem.part(l.nameEnd)
	im.dirs, im.again, im.chunkEnd = im.mem.part(l.dirs), im.mem.part(l.again), im.mem.part(l.chunkEnd)
	return raw
}

// rawColumns are columns of which an Image keeps running sums, or what was read
// from them.
type rawColumns struct {
	dirCount, fileExtents, lengths u32s
	xattrs                         []byte
}

// check checks the columns, in two independent halves. It puts running sums in
// the place of counts.
func (im *Image) check(l *layout, raw rawColumns) error {
	nlink := make([]uint32, im.root.Counts.Inodes)
	if err := together(
		func() error { return im.checkNames(l) }, // needs only the text
		func() (err error) {
			if im.xattrs, err = parseXattrs(raw.xattrs, &im.root.Counts); err != nil {
				return err
			}
			if err := im.checkAttrs(); err != nil {
				return err
			}
			return errors.Join(im.checkChunks(l, raw.lengths), im.checkInodes(l, nlink, raw.dirCount, raw.fileExtents))
		}); err != nil {
		return err
	}
	return together(
		func() error { return im.checkExtents(l) },
		func() error { return im.checkEntries(l, nlink) })
}

// together calls each of do in a goroutine of its own and returns the first
// error.
func together(do ...func() error) error {
	var g errgroup.Group
	for _, f := range do {
		g.Go(func() error { return Guard(f) })
	}
	return g.Wait()
}

// checkNames finds the ends of the names, none of which has a slash.
func (im *Image) checkNames(l *layout) error {
	if bytes.IndexByte(im.names, '/') >= 0 {
		return malformed(SectionNames, "a name contains a slash")
	}
	ends := im.mem.fill(l.nameEnd)
	next, err := textEnds(SectionNames, im.names, int(im.root.Counts.Entries), MaxName, ends.u32)
	if err == nil && next != len(im.names) {
		err = malformed(SectionNames, "bytes after the last name")
	}
	return errors.Join(err, ends.flush())
}

func (im *Image) checkAttrs() error {
	c := &im.root.Counts
	nextSet := uint32(1)
	seen := make(map[[attrSize]byte]bool)
	for i := range int(c.Attrs) {
		r := u32s(im.attrs[i*attrSize:])
		if key := [attrSize]byte(r); seen[key] {
			return malformed(SectionAttrs, "record %d stands there twice", i)
		} else {
			seen[key] = true
		}
		mode, major, minor, set := r.at(0), r.at(3), r.at(4), r.at(5)
		device := false
		switch mode & ModeType {
		case ModeChar, ModeBlock:
			device = true
		case ModeDir, ModeRegular, ModeSymlink, ModeFIFO, ModeSocket:
		default:
			return malformed(SectionAttrs, "mode %#o has no known type", mode)
		}
		if mode&^(ModeType|ModePerm) != 0 {
			return malformed(SectionAttrs, "mode %#o has unknown bits", mode)
		}
		if !device && major|minor != 0 {
			return malformed(SectionAttrs, "mode %#o with device number %d:%d", mode, major, minor)
		}
		if set > nextSet || uint64(set) > c.XattrSets {
			return malformed(SectionAttrs, "xattr set %d is out of order or beyond %d", set, c.XattrSets)
		}
		if set == nextSet {
			nextSet++
		}
	}
	if uint64(nextSet) != c.XattrSets+1 {
		return malformed(SectionAttrs, "only %d of %d xattr sets are used", nextSet-1, c.XattrSets)
	}
	return nil
}

func (im *Image) checkChunks(l *layout, lengths u32s) error {
	ends := im.mem.fill(l.chunkEnd)
	end := uint64(0)
	for i := range lengths.len() {
		n := lengths.at(i)
		if n == 0 || n > chunk.MaxSize {
			return malformed(SectionChunks, "chunk %d of %d bytes", i, n)
		}
		end += uint64(n)
		ends.u64(end)
	}
	if end != im.root.Stored {
		return malformed(SectionChunks, "chunks of %d bytes, root block says %d", end, im.root.Stored)
	}
	return ends.flush()
}

// checkInodes checks every inode for itself and gives it its span, and nlink
// as if it had one name.
func (im *Image) checkInodes(l *layout, nlink []uint32, dirCount, fileExtents u32s) error {
	c := &im.root.Counts
	var files, dirs, symlinks uint64
	var entry, extent, target, nextAttr uint64
	spans, dirInodes := im.mem.fill(l.span), im.mem.fill(l.dirs)
	for i := range int(c.Inodes) {
		a := uint64(im.attr.at(i))
		if a > nextAttr || a >= c.Attrs {
			return malformed(SectionInodes, "inode %d has attributes %d, out of order or beyond %d", i, a, c.Attrs)
		}
		if a == nextAttr {
			nextAttr++
		}
		if ns := im.btimeNsec.at(i); im.mtimeNsec.at(i) >= 1e9 || ns >= 1e9 && (ns != noBtime || im.btimeSec.at(i) != 0) {
			return malformed(SectionInodes, "inode %d has a time with too many nanoseconds", i)
		}
		nlink[i] = 1
		var s span
		switch im.Mode(Inode(i)) & ModeType {
		case ModeDir:
			if dirs == c.Directories {
				return malformed(SectionInodes, "more than %d directories", dirs)
			}
			n := uint64(dirCount.at(int(dirs)))
			if entry+n > c.Entries {
				return malformed(SectionEntries, "directory %d has %d entries, %d are left", i, n, c.Entries-entry)
			}
			s, nlink[i] = span{uint32(entry), uint32(n)}, 2
			dirInodes.u32(uint32(i))
			dirs, entry = dirs+1, entry+n
		case ModeRegular:
			if files == c.Files {
				return malformed(SectionInodes, "more than %d files", files)
			}
			n := uint64(fileExtents.at(int(files)))
			if extent+n > c.Extents {
				return malformed(SectionExtents, "inode %d has %d extents, %d are left", i, n, c.Extents-extent)
			}
			s = span{uint32(extent), uint32(n)}
			files, extent = files+1, extent+n
		case ModeSymlink:
			if symlinks == c.Symlinks {
				return malformed(SectionInodes, "more than %d symlinks", symlinks)
			}
			n := bytes.IndexByte(im.targets[target:], 0)
			if n <= 0 || n > MaxTarget {
				return malformed(SectionSymlinks, "target of inode %d is empty, not ended, or longer than %d bytes", i, MaxTarget)
			}
			s = span{uint32(target), uint32(n)}
			symlinks, target = symlinks+1, target+uint64(n)+1
		}
		spans.u64(uint64(s.n)<<32 | uint64(s.first))
	}
	switch {
	case im.Mode(RootInode)&ModeType != ModeDir:
		return malformed(SectionInodes, "the root is no directory")
	case dirs != c.Directories || files != c.Files || symlinks != c.Symlinks || nextAttr != c.Attrs:
		return malformed(SectionInodes, "%d directories, %d files, %d symlinks, %d attributes do not agree with the root block", dirs, files, symlinks, nextAttr)
	case entry != c.Entries || extent != c.Extents || target != uint64(len(im.targets)):
		return malformed(SectionInodes, "entries, extents or targets are left over")
	}
	return errors.Join(spans.flush(), dirInodes.flush())
}

// checkEntries checks the order of names, turns link 0 ("the next new inode")
// into inode numbers, and counts names. Every inode but the root is introduced
// once, a directory before its own entries: so the tree is a tree.
func (im *Image) checkEntries(l *layout, nlink []uint32) error {
	links, again := im.mem.fill(l.link(&im.root.Counts)), im.mem.fill(l.again)
	next, hard := Inode(1), 0
	for d := range im.dirs.len() {
		dir := Inode(im.dirs.at(d))
		if dir >= next {
			return malformed(SectionEntries, "directory %d comes before it is named", dir)
		}
		s := im.span.at(int(dir))
		var last []byte
		for e := int(s.first); e < int(s.first+s.n); e++ {
			name := im.entryName(e)
			if isDots(name) {
				return malformed(SectionNames, "name %q means a directory itself", name)
			}
			if bytes.Compare(last, name) >= 0 { // names are not empty
				return malformed(SectionNames, "name %q is out of order", name)
			}
			last = name
			if target := Inode(im.link.at(e)); target != 0 {
				if target >= next || im.Mode(target)&ModeType == ModeDir {
					return malformed(SectionEntries, "%q is a hard link to inode %d, which is no earlier file", name, target)
				}
				if hard++; hard > im.again.len() {
					return malformed(SectionEntries, "more than %d hard links", im.again.len())
				}
				nlink[target]++
				again.u32(uint32(e))
				links.u32(uint32(target))
				continue
			}
			if int(next) >= len(nlink) {
				return malformed(SectionEntries, "more new inodes than %d", next)
			}
			links.u32(uint32(next))
			if im.Mode(next)&ModeType == ModeDir {
				nlink[dir]++
			}
			next++
		}
	}
	if int(next) != len(nlink) {
		return malformed(SectionEntries, "%d of %d inodes are named", next, len(nlink))
	}
	counts := im.mem.fill(l.nlink)
	for _, n := range nlink {
		counts.u32(n)
	}
	return errors.Join(links.flush(), again.flush(), counts.flush())
}

// isDots reports whether a name, which is not empty, means a directory itself.
func isDots(name []byte) bool {
	return name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.')
}
