package testnet

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// CompareOptions says what CompareTrees looks at beyond what it always does.
// The zero value suits a tree and its unpacked copy.
type CompareOptions struct {
	BirthTime   bool // compare birth times; a mount shows the source's, a copy cannot
	Holes       bool // compare where the holes of files are
	NoDirNlink  bool // leave out the link counts of directories; some file systems always say 1
	LinksInside bool // expect of the files of b as many links as those of a have names inside of it; there may be more outside
	SkipHoles   bool // do not read ranges of which both trees say that they are holes
	Workers     int  // files compared at once; 0 means two for each processor, at least 8
	MaxListed   int  // differences kept in Comparison.Differences; 0 means 100
	IgnoreXattr func(name string) bool
}

// Difference is one attribute of one entry in which two trees differ.
type Difference struct {
	Path string // relative to the trees' roots; the root itself is "."
	What string // "entry", "type", "mode", "uid", "xattr user.x", "content" ...
	A, B string // what each tree has, in words
}

func (d Difference) String() string {
	return fmt.Sprintf("%q: %s: %s, %s", d.Path, d.What, d.A, d.B)
}

// Comparison is what CompareTrees found.
type Comparison struct {
	Entries     int64        // names seen in either tree, the root included
	Files       int64        // regular files whose content was compared; a file of several names counts once
	Bytes       int64        // bytes of those files
	Total       int64        // differences found
	Differences []Difference // the first of them, sorted by path
}

// Equal reports whether no difference was found.
func (c Comparison) Equal() bool { return c.Total == 0 }

// CompareTrees compares the directories a and b on disk, entry by entry: type,
// the 12 mode bits, uid, gid, device number, size (of files), link count,
// mtime in nanoseconds, symlink targets, all xattrs with their values, which
// names are hard links of one another, and every byte of content. An entry
// that cannot be read is a difference too ("read"), so nothing is passed over
// silently; below a directory that only one tree has it does not look.
//
// It follows no symlink, opens neither FIFOs nor devices, takes names of any
// bytes and paths of any length, and holds at most a bounded number of files
// open. Memory grows with the largest directory and with the number of
// hard-linked files, not with the tree. The trees must stay as they are
// meanwhile. The error is about a and b themselves, or ctx's.
func CompareTrees(ctx context.Context, a, b string, opts CompareOptions) (Comparison, error) {
	if opts.Workers <= 0 {
		opts.Workers = max(8, 2*runtime.GOMAXPROCS(0))
	}
	if opts.MaxListed <= 0 {
		opts.MaxListed = 100
	}
	c := &comparer{opts: opts, links: newLinkPairs(), inside: map[fileID]insideLinks{}, jobs: make(chan contentJob, opts.Workers)}
	var workers sync.WaitGroup
	for range opts.Workers {
		workers.Go(func() { c.compareContents(ctx) })
	}
	err := c.walk(ctx, a, b)
	close(c.jobs)
	workers.Wait()
	if err == nil {
		err = ctx.Err()
	}
	c.compareInside()
	if err != nil {
		err = fmt.Errorf("compare %s with %s: %w", a, b, err)
	}
	return c.result(), err
}

// comparer is one run of CompareTrees. The walker alone uses links and inside;
// workers and walker share the counts and the list.
type comparer struct {
	opts   CompareOptions
	links  *linkPairs
	inside map[fileID]insideLinks // files of a with several names, if opts.LinksInside
	jobs   chan contentJob

	entries, files, bytes atomic.Int64

	mu     sync.Mutex
	total  int64
	listed []Difference
}

// differ records a difference.
func (c *comparer) differ(path, what, a, b string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total++
	if len(c.listed) < c.opts.MaxListed {
		c.listed = append(c.listed, Difference{Path: path, What: what, A: a, B: b})
	}
}

func (c *comparer) result() Comparison {
	slices.SortFunc(c.listed, func(x, y Difference) int {
		return cmp.Or(cmp.Compare(x.Path, y.Path), cmp.Compare(x.What, y.What))
	})
	return Comparison{
		Entries: c.entries.Load(), Files: c.files.Load(), Bytes: c.bytes.Load(),
		Total: c.total, Differences: c.listed,
	}
}

// fileID names an inode on disk.
type fileID struct{ dev, ino uint64 }

// linkPairs remembers, for each inode of more than one name, which inode of
// the other tree its first name stood beside.
type linkPairs struct {
	ofA, ofB map[fileID]linkPair
}

type linkPair struct {
	other fileID
	path  string // the first name
	left  uint32 // names still to come; the pair is forgotten at 0
}

// insideLinks is how many names of a file of a were met, and how many links
// the other tree says it has.
type insideLinks struct {
	path       string // one of the names
	met, links uint32
}

func newLinkPairs() *linkPairs {
	return &linkPairs{ofA: map[fileID]linkPair{}, ofB: map[fileID]linkPair{}}
}

// add notes that a and b stand at path in their trees. It returns the first
// path of each if it was seen before, and whether the two were seen together.
func (l *linkPairs) add(path string, a, b fileID, nlinkA, nlinkB uint32) (firstA, firstB string, same bool) {
	pa, seenA := step(l.ofA, a, b, path, nlinkA)
	pb, seenB := step(l.ofB, b, a, path, nlinkB)
	if seenA {
		firstA = pa.path
	}
	if seenB {
		firstB = pb.path
	}
	return firstA, firstB, seenA && seenB && pa.other == b && pb.other == a
}

func step(m map[fileID]linkPair, id, other fileID, path string, nlink uint32) (linkPair, bool) {
	p, seen := m[id]
	if !seen {
		p = linkPair{other: other, path: path, left: nlink}
	}
	if p.left--; p.left == 0 || nlink < 2 {
		delete(m, id)
	} else {
		m[id] = p
	}
	return p, seen
}
