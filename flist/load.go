package flist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Load gets an flist's root block and tables from src and checks every
// reference in them once. Memory is bounded by MaxTableBytes and, for what it
// keeps, about 1.3 times the size of the tables. Errors: ErrNotFlist,
// *VersionError, *FormatError, or those of src.
func Load(ctx context.Context, src chunk.Source, root cid.Cid) (*Image, error) {
	r, err := LoadRoot(ctx, src, root)
	if err != nil {
		return nil, err
	}
	tables := make([][]byte, len(mountSections))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for i, name := range mountSections {
		if err := fetchSection(ctx, g, src, name, r.Sections[name], &tables[i]); err != nil {
			return nil, errors.Join(err, g.Wait())
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	im := &Image{cid: root, root: r}
	if err := im.parse(tables); err != nil {
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	return im, nil
}

// LoadRoot gets and decodes the root block alone.
func LoadRoot(ctx context.Context, src chunk.Source, root cid.Cid) (*Root, error) {
	if err := checkCID(root); err != nil {
		return nil, err
	}
	id, err := chunk.FromCID(root)
	if err != nil {
		return nil, err
	}
	block, err := src.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("root block of flist %s: %w", root, err)
	}
	r, err := DecodeRoot(block)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	return r, nil
}

// fetchSection starts getting the chunks of one table into *table, which is
// whole when g is done. Memory for the table is taken when its first chunk is
// there, so that a root block alone costs nothing.
func fetchSection(ctx context.Context, g *errgroup.Group, src chunk.Source, name string, s Section, table *[]byte) error {
	if s.Size == 0 {
		return nil
	}
	get := func(i int) ([]byte, error) {
		data, err := src.Get(ctx, s.Chunks[i].ID())
		if err != nil {
			return nil, fmt.Errorf("%s table, chunk %s: %w", name, s.Chunks[i].ID(), err)
		}
		if want := min(s.Size-uint64(i)*sectionChunk, sectionChunk); uint64(len(data)) != want {
			return nil, malformed(name, "chunk %d has %d bytes, want %d", i, len(data), want)
		}
		return data, nil
	}
	first, err := get(0)
	if err != nil {
		return err
	}
	buf := make([]byte, s.Size)
	*table = buf
	copy(buf, first)
	for i := 1; i < len(s.Chunks); i++ {
		g.Go(func() error {
			data, err := get(i)
			if err == nil {
				copy(buf[i*sectionChunk:], data)
			}
			return err
		})
	}
	return nil
}

// parse cuts the tables into columns and checks them, in two independent
// halves. It turns counts into running sums in place: the tables are its own.
func (im *Image) parse(tables [][]byte) error {
	c := &im.root.Counts
	cut := func(b *[]byte, n uint64) []byte {
		head := (*b)[:n:n]
		*b = (*b)[n:]
		return head
	}
	inodes, entries, extents, chunks := tables[0], tables[1], tables[3], tables[4]
	im.attr = u32s(cut(&inodes, c.Inodes*4))
	im.mtimeSec, im.mtimeNsec = u64s(cut(&inodes, c.Inodes*8)), u32s(cut(&inodes, c.Inodes*4))
	im.btimeSec, im.btimeNsec = u64s(cut(&inodes, c.Inodes*8)), u32s(cut(&inodes, c.Inodes*4))
	dirCount := u32s(cut(&entries, c.Directories*4))
	im.link = u32s(entries)
	fileExtents := u32s(cut(&extents, c.Files*4))
	im.extentStart, im.extentEnd = u64s(cut(&extents, c.Extents*8)), u64s(extents)
	lengths := u32s(cut(&chunks, (c.Packs+c.Cuts)*4))
	im.chunkID, im.names, im.targets, im.attrs = chunks, tables[2], tables[5], tables[6]

	var err error
	if im.xattrs, err = parseXattrs(tables[7], c); err != nil {
		return err
	}
	if err := im.checkAttrs(); err != nil {
		return err
	}
	im.span = make([]span, c.Inodes)
	im.nlink = make([]uint32, c.Inodes)
	var g errgroup.Group
	g.Go(func() (err error) { // who needs only the text
		im.nameEnd, err = textEnds(SectionNames, im.names, int(c.Entries), MaxName)
		if err == nil && c.Entries > 0 && int(im.nameEnd[c.Entries-1])+1 != len(im.names) {
			err = malformed(SectionNames, "bytes after the last name")
		}
		return err
	})
	g.Go(func() error {
		return errors.Join(im.checkChunks(lengths), im.checkInodes(dirCount, fileExtents))
	})
	if err := g.Wait(); err != nil {
		return err
	}
	g.Go(im.checkExtents)
	g.Go(im.checkEntries)
	return g.Wait()
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

func (im *Image) checkChunks(lengths u32s) error {
	c := &im.root.Counts
	im.chunkEnd = make([]uint64, c.Packs+c.Cuts)
	end := uint64(0)
	for i := range im.chunkEnd {
		n := lengths.at(i)
		if n == 0 || n > chunk.MaxSize {
			return malformed(SectionChunks, "chunk %d of %d bytes", i, n)
		}
		end += uint64(n)
		im.chunkEnd[i] = end
	}
	if end != im.root.Stored {
		return malformed(SectionChunks, "chunks of %d bytes, root block says %d", end, im.root.Stored)
	}
	return nil
}

// checkInodes checks every inode for itself and gives it its span.
func (im *Image) checkInodes(dirCount, fileExtents u32s) error {
	c := &im.root.Counts
	var files, dirs, symlinks uint64
	var entry, extent, target, nextAttr uint64
	im.dirs = make([]Inode, 0, c.Directories)
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
		im.nlink[i] = 1
		switch im.Mode(Inode(i)) & ModeType {
		case ModeDir:
			if dirs == c.Directories {
				return malformed(SectionInodes, "more than %d directories", dirs)
			}
			n := uint64(dirCount.at(int(dirs)))
			if entry+n > c.Entries {
				return malformed(SectionEntries, "directory %d has %d entries, %d are left", i, n, c.Entries-entry)
			}
			im.span[i], im.nlink[i] = span{uint32(entry), uint32(n)}, 2
			im.dirs = append(im.dirs, Inode(i))
			dirs, entry = dirs+1, entry+n
		case ModeRegular:
			if files == c.Files {
				return malformed(SectionInodes, "more than %d files", files)
			}
			n := uint64(fileExtents.at(int(files)))
			if extent+n > c.Extents {
				return malformed(SectionExtents, "inode %d has %d extents, %d are left", i, n, c.Extents-extent)
			}
			im.span[i] = span{uint32(extent), uint32(n)}
			files, extent = files+1, extent+n
		case ModeSymlink:
			if symlinks == c.Symlinks {
				return malformed(SectionInodes, "more than %d symlinks", symlinks)
			}
			n := bytes.IndexByte(im.targets[target:], 0)
			if n <= 0 || n > MaxTarget {
				return malformed(SectionSymlinks, "target of inode %d is empty, not ended, or longer than %d bytes", i, MaxTarget)
			}
			im.span[i] = span{uint32(target), uint32(n)}
			symlinks, target = symlinks+1, target+uint64(n)+1
		}
	}
	switch {
	case im.Mode(RootInode)&ModeType != ModeDir:
		return malformed(SectionInodes, "the root is no directory")
	case dirs != c.Directories || files != c.Files || symlinks != c.Symlinks || nextAttr != c.Attrs:
		return malformed(SectionInodes, "%d directories, %d files, %d symlinks, %d attributes do not agree with the root block", dirs, files, symlinks, nextAttr)
	case entry != c.Entries || extent != c.Extents || target != uint64(len(im.targets)):
		return malformed(SectionInodes, "entries, extents or targets are left over")
	}
	return nil
}

// checkEntries checks the order of names and turns link 0 ("the next new
// inode") into inode numbers. Every inode but the root is introduced once, a
// directory before its own entries: so the tree is a tree.
func (im *Image) checkEntries() error {
	next := Inode(1)
	for _, dir := range im.dirs {
		if dir >= next {
			return malformed(SectionEntries, "directory %d comes before it is named", dir)
		}
		s := im.span[dir]
		for e := int(s.first); e < int(s.first+s.n); e++ {
			name := im.entryName(e)
			if reason := badEntryName(name); reason != "" {
				return malformed(SectionNames, "name %q %s", name, reason)
			}
			if e > int(s.first) && bytes.Compare(im.entryName(e-1), name) >= 0 {
				return malformed(SectionNames, "name %q is out of order", name)
			}
			if target := Inode(im.link.at(e)); target != 0 {
				if target >= next || im.Mode(target)&ModeType == ModeDir {
					return malformed(SectionEntries, "%q is a hard link to inode %d, which is no earlier file", name, target)
				}
				im.nlink[target]++
				im.again = append(im.again, uint32(e))
				continue
			}
			if int(next) >= len(im.span) {
				return malformed(SectionEntries, "more new inodes than %d", next)
			}
			im.link.set(e, uint32(next))
			if im.Mode(next)&ModeType == ModeDir {
				im.nlink[dir]++
			}
			next++
		}
	}
	if int(next) != len(im.span) {
		return malformed(SectionEntries, "%d of %d inodes are named", next, len(im.span))
	}
	return nil
}

// badEntryName is badName for a name that textEnds has found: it is not
// empty, not too long, and has no NUL.
func badEntryName(name []byte) string {
	if name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.') {
		return "means a directory itself"
	}
	if bytes.IndexByte(name, '/') >= 0 {
		return "contains a slash"
	}
	return ""
}

