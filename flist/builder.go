package flist

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Node is an inode to be added. Attr.Size of files is derived from Extents,
// of symlinks from Target; Attr.Nlink is ignored.
type Node struct {
	Attr      Attr
	Xattrs    []Xattr // in any order
	Target    []byte  // of a symlink
	Extents   []Extent
	Digest    [32]byte // SHA2-256 of a file's content, holes read as zeros
	HasDigest bool
}

// BuilderOptions are the choices of a Builder.
type BuilderOptions struct {
	Annotations map[string]string // kept in the root block
	TempDir     string            // where large tables wait; os.TempDir() if empty
}

// Builder writes an flist, breadth first: Root, then for each directory in
// the order in which they were added NextDir and its entries sorted by name,
// then Finish. Chunks are named with AddChunk in the order of their stream;
// their content is the caller's business. Memory does not grow with the tree
// but for 4 bytes a directory and the distinct owners, modes and xattrs.
//
// A Builder belongs to one goroutine. After an error only Close is useful.
type Builder struct {
	sink chunk.Sink
	opts BuilderOptions
	root Root

	attr, mtimeSec, mtimeNsec, btimeSec, btimeNsec column
	dirCount, link, names                          column
	fileExtents, extentStart, extentLength         column
	packLength, packDigest, cutLength, cutDigest   column
	targets                                        column
	attrTable                                      column
	xattrCount, xattrLength, xattrName, xattrValue column
	digests                                        column

	attrIndex map[attrKey]uint32
	xattrSets map[string]uint32
	dirs      []Inode // in the order added
	open      int     // index in dirs of the open directory; -1 before the first
	inOpen    uint32  // entries in the open directory
	lastName  []byte
	types     typeLog
	laid      [2]uint64 // bytes of each stream laid down by Fresh extents
	chunked   [2]uint64 // bytes of each stream named by AddChunk
	err       error     // of NextDir, told by Finish
}

type attrKey struct{ mode, uid, gid, major, minor, xattrs uint32 }

// noBtime in the nanoseconds of a birth time says that there is none.
const noBtime = math.MaxUint32

// NewBuilder returns a Builder that puts metadata chunks into sink.
func NewBuilder(sink chunk.Sink, opts BuilderOptions) (*Builder, error) {
	b := &Builder{sink: sink, opts: opts, open: -1, attrIndex: map[attrKey]uint32{}, xattrSets: map[string]uint32{}}
	b.root = Root{Version: Version, Sections: map[string]Section{}, Annotations: map[string]string{}}
	for k, v := range opts.Annotations {
		b.root.Annotations[k] = v
	}
	for _, c := range b.columns() {
		c.dir = opts.TempDir
	}
	return b, nil
}

// Close removes what the Builder keeps outside memory.
func (b *Builder) Close() error {
	var errs []error
	for _, c := range b.columns() {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// Root adds the root directory; it is called first and once.
func (b *Builder) Root(n Node) error {
	if b.root.Counts.Inodes != 0 || !n.Attr.IsDir() {
		return errors.New("flist: Root is called first, once, with a directory")
	}
	_, err := b.addInode(n)
	return err
}

// NextDir closes the open directory and opens the next one in the order in
// which they were added, at first the root. It returns false when there is
// none left, or after an error that Finish will tell.
func (b *Builder) NextDir() (Inode, bool) {
	if b.open >= 0 && b.open < len(b.dirs) {
		if b.err = b.dirCount.u32(b.inOpen); b.err != nil {
			return 0, false
		}
	}
	b.inOpen, b.lastName = 0, b.lastName[:0]
	b.open++
	if b.open >= len(b.dirs) {
		return 0, false
	}
	return b.dirs[b.open], true
}

// Add adds a new inode under name to the open directory.
func (b *Builder) Add(name []byte, n Node) (Inode, error) {
	if err := b.addEntry(name, 0); err != nil {
		return 0, err
	}
	return b.addInode(n)
}

// Link adds a further name of target, which was added before and is not a
// directory, to the open directory.
func (b *Builder) Link(name []byte, target Inode) error {
	if target == RootInode || uint64(target) >= b.root.Counts.Inodes || b.types.isDir(target) {
		return fmt.Errorf("flist: hard link %q to inode %d, which is no earlier file", name, target)
	}
	return b.addEntry(name, uint32(target))
}

// AddChunk names the next chunk of a stream; size is its plain length in
// bytes. By Finish the chunks must cover the stream exactly.
func (b *Builder) AddChunk(s Stream, id chunk.ID, size int) error {
	if size <= 0 || size > chunk.MaxSize {
		return fmt.Errorf("flist: chunk of %d bytes", size)
	}
	length, digest, count := &b.packLength, &b.packDigest, &b.root.Counts.Packs
	if s == Cut {
		length, digest, count = &b.cutLength, &b.cutDigest, &b.root.Counts.Cuts
	}
	*count++
	b.chunked[s] += uint64(size)
	return errors.Join(length.u32(uint32(size)), digest.bytes(id[:]))
}

// Position returns the bytes of s laid down by Fresh extents so far.
func (b *Builder) Position(s Stream) uint64 { return b.laid[s] }

// Finish writes the tables and the root block and returns the flist CID.
func (b *Builder) Finish(ctx context.Context) (cid.Cid, *Root, error) {
	if b.err != nil {
		return cid.Undef, nil, b.err
	}
	if b.open < len(b.dirs) || b.dirCount.size() != int64(len(b.dirs))*4 {
		return cid.Undef, nil, errors.New("flist: Finish before every directory was closed")
	}
	if b.laid != b.chunked {
		return cid.Undef, nil, fmt.Errorf("flist: chunks cover %d of the streams' %d bytes", b.chunked, b.laid)
	}
	r := &b.root
	r.Stored = b.laid[Packed] + b.laid[Cut]
	if err := b.writeSections(ctx); err != nil {
		return cid.Undef, nil, err
	}
	if err := r.check(); err != nil {
		return cid.Undef, nil, err
	}
	block, err := r.encode()
	if err != nil {
		return cid.Undef, nil, err
	}
	p := chunk.PackTight(block)
	if err := b.sink.Put(ctx, p); err != nil {
		return cid.Undef, nil, fmt.Errorf("keep root block: %w", err)
	}
	return cid.NewCidV1(cid.DagCBOR, p.ID.Multihash()), r, nil
}

// writeSections writes several tables at a time: compressing them takes most
// of Finish.
func (b *Builder) writeSections(ctx context.Context) error {
	var mu sync.Mutex // guards b.root.Sections
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(runtime.GOMAXPROCS(0), 4)) // each holds a chunk and 10 MB for the compressor
	for name, columns := range b.sections() {
		g.Go(func() error {
			s, err := b.writeSection(ctx, columns)
			if err != nil {
				return fmt.Errorf("write %s table: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			b.root.Sections[name] = s
			return nil
		})
	}
	return g.Wait()
}

func (b *Builder) sections() map[string][]*column {
	return map[string][]*column{
		SectionInodes:   {&b.attr, &b.mtimeSec, &b.mtimeNsec, &b.btimeSec, &b.btimeNsec},
		SectionEntries:  {&b.dirCount, &b.link},
		SectionNames:    {&b.names},
		SectionExtents:  {&b.fileExtents, &b.extentStart, &b.extentLength},
		SectionChunks:   {&b.packLength, &b.cutLength, &b.packDigest, &b.cutDigest},
		SectionSymlinks: {&b.targets},
		SectionAttrs:    {&b.attrTable},
		SectionXattrs:   {&b.xattrCount, &b.xattrLength, &b.xattrName, &b.xattrValue},
		SectionDigests:  {&b.digests},
	}
}

func (b *Builder) columns() []*column {
	var all []*column
	for _, columns := range b.sections() {
		all = append(all, columns...)
	}
	return all
}

func (b *Builder) writeSection(ctx context.Context, columns []*column) (Section, error) {
	readers := make([]io.Reader, len(columns))
	var s Section
	for i, c := range columns {
		readers[i] = c.reader()
		s.Size += uint64(c.size())
	}
	if s.Size > MaxTableBytes {
		return s, fmt.Errorf("table of %d bytes is beyond %d: too many entries for one flist", s.Size, MaxTableBytes)
	}
	r := io.MultiReader(readers...)
	buf := make([]byte, min(s.Size, sectionChunk))
	for left := s.Size; left > 0; left -= uint64(len(buf)) {
		buf = buf[:min(left, sectionChunk)]
		if _, err := io.ReadFull(r, buf); err != nil {
			return s, fmt.Errorf("temporary file for tables: %w", err)
		}
		p := chunk.PackTight(buf)
		if err := b.sink.Put(ctx, p); err != nil {
			return s, err
		}
		s.Chunks = append(s.Chunks, Link(p.ID))
	}
	return s, nil
}

func (b *Builder) addEntry(name []byte, link uint32) error {
	if reason := badName(name); reason != "" {
		return fmt.Errorf("flist: name %q %s", name, reason)
	}
	if b.open < 0 || b.open >= len(b.dirs) {
		return errors.New("flist: no directory is open")
	}
	if b.inOpen > 0 && bytes.Compare(b.lastName, name) >= 0 {
		return fmt.Errorf("flist: name %q comes after %q: entries must be sorted", name, b.lastName)
	}
	if b.names.size()+int64(len(name)) >= MaxTableBytes {
		return errors.New("flist: too many names for one flist")
	}
	b.lastName = append(b.lastName[:0], name...)
	b.inOpen++
	b.root.Counts.Entries++
	return errors.Join(b.names.text(name), b.link.u32(link))
}

func (b *Builder) addInode(n Node) (Inode, error) {
	a := n.Attr
	ino := Inode(b.root.Counts.Inodes)
	if b.root.Counts.Inodes >= MaxTableBytes/inodeSize {
		return 0, errors.New("flist: too many entries for one flist")
	}
	if a.Mtime.Nsec >= 1e9 || a.HasBtime && a.Btime.Nsec >= 1e9 || a.Mode&^(ModeType|ModePerm) != 0 {
		return 0, fmt.Errorf("flist: attributes out of range: %+v", a)
	}
	set, err := b.xattrSet(n.Xattrs)
	if err != nil {
		return 0, err
	}
	key := attrKey{mode: a.Mode, uid: a.UID, gid: a.GID, xattrs: set}
	b.types.add(a.IsDir())
	b.root.Counts.Inodes++
	switch a.Mode & ModeType {
	case ModeDir:
		b.dirs = append(b.dirs, ino)
		b.root.Counts.Directories++
	case ModeRegular:
		err = b.addFile(n)
	case ModeSymlink:
		if len(n.Target) == 0 || len(n.Target) > MaxTarget || bytes.IndexByte(n.Target, 0) >= 0 {
			return 0, fmt.Errorf("flist: symlink target of %d bytes, or with a NUL", len(n.Target))
		}
		b.root.Counts.Symlinks++
		err = b.targets.text(n.Target)
	case ModeChar, ModeBlock:
		key.major, key.minor = unix.Major(a.Rdev), unix.Minor(a.Rdev)
	case ModeFIFO, ModeSocket:
	default:
		return 0, fmt.Errorf("flist: mode %#o has no known type", a.Mode)
	}
	btime := Time{Nsec: noBtime}
	if a.HasBtime {
		btime = a.Btime
	}
	return ino, errors.Join(err, b.addAttr(key),
		b.mtimeSec.u64(uint64(a.Mtime.Sec)), b.mtimeNsec.u32(a.Mtime.Nsec),
		b.btimeSec.u64(uint64(btime.Sec)), b.btimeNsec.u32(btime.Nsec))
}

// addAttr appends the number of key's record, which is made at its first use.
func (b *Builder) addAttr(key attrKey) error {
	i, ok := b.attrIndex[key]
	if !ok {
		i = uint32(len(b.attrIndex))
		b.attrIndex[key] = i
		b.root.Counts.Attrs++
		for _, v := range []uint32{key.mode, key.uid, key.gid, key.major, key.minor, key.xattrs} {
			if err := b.attrTable.u32(v); err != nil {
				return err
			}
		}
	}
	return b.attr.u32(i)
}

// xattrSet returns the number of a set of xattrs, counted from 1 in the order
// of first use; 0 is the empty set.
func (b *Builder) xattrSet(xattrs []Xattr) (uint32, error) {
	if len(xattrs) == 0 {
		return 0, nil
	}
	xattrs = slices.Clone(xattrs)
	slices.SortFunc(xattrs, func(x, y Xattr) int { return bytes.Compare(x.Name, y.Name) })
	var key []byte
	for i, x := range xattrs {
		if len(x.Name) == 0 || len(x.Name) > MaxXattrName || len(x.Value) > MaxXattrValue || bytes.IndexByte(x.Name, 0) >= 0 {
			return 0, fmt.Errorf("flist: xattr %q of %d bytes", x.Name, len(x.Value))
		}
		if i > 0 && bytes.Equal(x.Name, xattrs[i-1].Name) {
			return 0, fmt.Errorf("flist: xattr %q twice", x.Name)
		}
		key = append(append(key, x.Name...), 0)
		key = append(binary.LittleEndian.AppendUint32(key, uint32(len(x.Value))), x.Value...)
	}
	if i, ok := b.xattrSets[string(key)]; ok {
		return i, nil
	}
	i := uint32(len(b.xattrSets) + 1)
	b.xattrSets[string(key)] = i
	b.root.Counts.XattrSets++
	b.root.Counts.Xattrs += uint64(len(xattrs))
	err := b.xattrCount.u32(uint32(len(xattrs)))
	for _, x := range xattrs {
		err = errors.Join(err, b.xattrLength.u32(uint32(len(x.Value))), b.xattrName.text(x.Name), b.xattrValue.bytes(x.Value))
	}
	return i, err
}

// badName says why name cannot be a directory entry; "" if it can.
func badName(name []byte) string {
	switch {
	case len(name) == 0 || len(name) > MaxName:
		return fmt.Sprintf("is empty or longer than %d bytes", MaxName)
	case bytes.IndexByte(name, 0) >= 0:
		return "contains a NUL"
	case bytes.IndexByte(name, '/') >= 0:
		return "contains a slash"
	case isDots(name):
		return "means a directory itself"
	}
	return ""
}

// typeLog remembers one bit an inode: whether it is a directory.
type typeLog struct {
	bits []uint64
	n    uint64
}

func (t *typeLog) add(dir bool) {
	if t.n%64 == 0 {
		t.bits = append(t.bits, 0)
	}
	if dir {
		t.bits[t.n/64] |= 1 << (t.n % 64)
	}
	t.n++
}

func (t *typeLog) isDir(i Inode) bool { return t.bits[i/64]>>(i%64)&1 == 1 }
