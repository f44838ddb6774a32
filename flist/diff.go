package flist

import (
	"bytes"
	"iter"
	"maps"
)

// ChangeKind says what became of a name.
type ChangeKind uint8

// Added and Removed names exist on one side only; Modified ones on both, with
// differences named in Change.What.
const (
	Added ChangeKind = iota
	Removed
	Modified
)

// Change is one difference between two images.
type Change struct {
	Kind ChangeKind
	Path []byte // valid until the next change
	A, B Inode  // in the one and the other image; Added has no A, Removed no B
	What []Aspect
}

// Aspect names something of an inode that can differ.
type Aspect string

// The aspects Diff compares. Birth times are not compared: copying a tree
// changes them all.
const (
	AspectType    Aspect = "type"
	AspectMode    Aspect = "mode"
	AspectOwner   Aspect = "owner"
	AspectDevice  Aspect = "device"
	AspectSize    Aspect = "size"
	AspectContent Aspect = "content"
	AspectTarget  Aspect = "target"
	AspectMtime   Aspect = "mtime"
	AspectXattrs  Aspect = "xattrs"
	AspectNlink   Aspect = "nlink"
)

// Diff goes over the differences of two images in the order of paths, depth
// first. What is below an added or removed directory is told name by name.
// Content is compared by digest; where one is not recorded, by chunks.
func Diff(a, b *Image, da, db *Digests) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		d := differ{a: a, b: b, da: da, db: db, yield: yield}
		if what := d.compare(RootInode, RootInode); len(what) > 0 {
			if !yield(Change{Kind: Modified, Path: []byte("/"), What: what}) {
				return
			}
		}
		d.run()
	}
}

type differ struct {
	a, b   *Image
	da, db *Digests
	yield  func(Change) bool
	path   []byte
}

// pair is a directory of each side, as ranges of entries still to compare.
type pair struct{ a, aEnd, b, bEnd, path int }

// run merges the sorted entries of directory after directory.
func (d *differ) run() {
	a, aEnd := d.a.Entries(RootInode)
	b, bEnd := d.b.Entries(RootInode)
	stack := []pair{{a, aEnd, b, bEnd, 0}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.a == top.aEnd && top.b == top.bEnd {
			stack = stack[:len(stack)-1]
			continue
		}
		next, more := d.step(top)
		if !more {
			return
		}
		if next.a < next.aEnd || next.b < next.bEnd {
			stack = append(stack, next)
		}
	}
}

// step handles the next name of p and returns what is below it.
func (d *differ) step(p *pair) (below pair, more bool) {
	c := Change{}
	var order int
	var nameA, nameB, name []byte
	if p.a < p.aEnd {
		nameA, c.A = d.a.Entry(p.a)
	}
	if p.b < p.bEnd {
		nameB, c.B = d.b.Entry(p.b)
	}
	switch {
	case p.a == p.aEnd:
		order = 1
	case p.b == p.bEnd:
		order = -1
	default:
		order = bytes.Compare(nameA, nameB)
	}
	if order <= 0 {
		name = nameA
		p.a++
		below.a, below.aEnd = d.a.Entries(c.A)
	}
	if order >= 0 {
		name = nameB
		p.b++
		below.b, below.bEnd = d.b.Entries(c.B)
	}
	d.path = append(append(d.path[:p.path], '/'), name...)
	c.Path, below.path = d.path, len(d.path)
	switch {
	case order < 0:
		c.Kind, c.B = Removed, 0
	case order > 0:
		c.Kind, c.A = Added, 0
	default:
		c.Kind, c.What = Modified, d.compare(c.A, c.B)
		if len(c.What) == 0 {
			return below, true
		}
	}
	return below, d.yield(c)
}

// compare names the aspects in which two inodes differ.
func (d *differ) compare(a, b Inode) []Aspect {
	x, y := d.a.Attr(a), d.b.Attr(b)
	var what []Aspect
	add := func(differs bool, aspect Aspect) {
		if differs {
			what = append(what, aspect)
		}
	}
	sameType := x.Mode&ModeType == y.Mode&ModeType
	add(!sameType, AspectType)
	add(x.Mode&ModePerm != y.Mode&ModePerm, AspectMode)
	add(x.UID != y.UID || x.GID != y.GID, AspectOwner)
	add(x.Mtime != y.Mtime, AspectMtime)
	add(!maps.EqualFunc(collect(d.a, a), collect(d.b, b), bytes.Equal), AspectXattrs)
	if !sameType {
		return what
	}
	add(!x.IsDir() && x.Nlink != y.Nlink, AspectNlink)
	add(x.Rdev != y.Rdev, AspectDevice)
	switch {
	case x.IsSymlink():
		add(!bytes.Equal(d.a.Target(a), d.b.Target(b)), AspectTarget)
	case x.IsRegular():
		add(x.Size != y.Size, AspectSize)
		add(x.Size != y.Size || !d.sameContent(a, b), AspectContent)
	}
	return what
}

func collect(im *Image, ino Inode) map[string][]byte {
	m := map[string][]byte{}
	for name, value := range im.Xattrs(ino) {
		m[string(name)] = value
	}
	return m
}

func (d *differ) sameContent(a, b Inode) bool {
	x, okA := d.da.Of(a)
	y, okB := d.db.Of(b)
	if okA && okB {
		return x == y
	}
	for off := uint64(0); ; {
		p, okA := d.a.PieceAt(a, off)
		q, okB := d.b.PieceAt(b, off)
		if !okA || !okB {
			return okA == okB
		}
		if p.Hole != q.Hole || !p.Hole && (p.ChunkOffset != q.ChunkOffset || d.chunkID(d.a, p) != d.chunkID(d.b, q)) {
			return false
		}
		off += min(p.Length, q.Length)
	}
}

func (d *differ) chunkID(im *Image, p Piece) [32]byte {
	id, _ := im.Chunk(p.Chunk)
	return id
}
