package pack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// batchEntries is how many entries of a directory are read by one reader at a
// time.
const batchEntries = 16

// dirNode is a directory met by the walk. Its path is the chain to the root.
type dirNode struct {
	parent  *dirNode
	name    string
	dropped bool // the sequencer's: the directory is not in the flist
}

// names returns the names from the root (not included) to n.
func (n *dirNode) names() []string {
	var names []string
	for ; n.parent != nil; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return names
}

// path returns the path of entry name of n; "" means n itself.
func (n *dirNode) path(name string) string {
	var p []byte
	for _, s := range n.names() {
		p = append(append(p, '/'), s...)
	}
	if name != "" || len(p) == 0 {
		p = append(append(p, '/'), name...)
	}
	return string(p)
}

// entry is a name in a directory.
type entry struct {
	name string
	typ  uint8    // DT_REG, DT_DIR, ...; never DT_UNKNOWN
	node *dirNode // of directories
}

// batch is a run of entries of one directory, in order.
type batch struct {
	node    *dirNode
	first   bool  // it begins the directory; an empty directory has one empty batch
	err     error // the directory could not be read; there are no entries
	dir     *openDir
	entries []entry

	items  []item        // the readers' answers, one an entry
	read   atomic.Int64  // entries read
	done   chan struct{} // closed when all are
	mu     sync.Mutex    // guards arenas
	arenas []*arena      // hold the content of small files
}

// newBatch returns a batch that holds dir until the readers are through.
func newBatch(n *dirNode, first bool, dir *openDir, entries []entry) *batch {
	b := &batch{node: n, first: first, dir: dir.hold(), entries: entries, items: make([]item, len(entries)), done: make(chan struct{})}
	b.finished(0)
	return b
}

// finished notes that n more entries have been read.
func (b *batch) finished(n int) {
	if b.read.Add(int64(n)) == int64(len(b.entries)) {
		close(b.done)
	}
}

func (b *batch) arena() *arena {
	a := getArena()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.arenas = append(b.arenas, a)
	return a
}

// free gives the memory of small files back.
func (b *batch) free() {
	for _, a := range b.arenas {
		a.free()
	}
}

func (b *batch) release() {
	if b.dir != nil {
		b.dir.release()
	}
}

// openDir is a directory's descriptor, shared by those who still read there.
type openDir struct {
	fd   int
	refs atomic.Int32
}

func newOpenDir(fd int) *openDir {
	d := &openDir{fd: fd}
	d.refs.Store(1)
	return d
}

func (d *openDir) hold() *openDir { d.refs.Add(1); return d }

func (d *openDir) release() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// walker lists the tree breadth first, each directory's names sorted bytewise.
type walker struct {
	opts    Options
	exclude *Excluder
	root    *openDir
	rootDev uint64
	skip    map[fileID]bool
	cache   dirCache
	buf     []byte
}

// fileID tells inodes apart.
type fileID struct{ dev, ino uint64 }

func newWalker(dir string, opts Options, exclude *Excluder, opener *opener) (*walker, error) {
	w := &walker{opts: opts, exclude: exclude, skip: map[fileID]bool{}, buf: make([]byte, 64<<10)}
	w.cache.opener = opener
	for _, s := range opts.Skip {
		var st unix.Stat_t
		if err := unix.Stat(s, &st); err == nil {
			w.skip[fileID{st.Dev, st.Ino}] = true
		}
	}
	fd, err := opener.open(unix.AT_FDCWD, dir, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	w.root = newOpenDir(fd)
	w.cache.root = w.root
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil {
		err = checkProc(fd)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	w.rootDev = st.Dev
	return w, nil
}

func (w *walker) close() {
	w.cache.close()
	w.root.release()
}

// run emits the batches of all directories.
func (w *walker) run(ctx context.Context, emit func(context.Context, *batch) error) error {
	queue := []*dirNode{{}}
	for len(queue) > 0 {
		n := queue[0]
		queue[0] = nil
		queue = queue[1:]
		if err := ctx.Err(); err != nil {
			return err
		}
		dir, entries, err := w.list(n)
		if exhausted(err) {
			return err
		}
		if err != nil {
			if err := emit(ctx, &batch{node: n, first: true, err: err, done: closed}); err != nil {
				return err
			}
			continue
		}
		for _, e := range entries {
			if e.node != nil {
				queue = append(queue, e.node)
			}
		}
		if err := w.emitDir(ctx, n, dir, entries, emit); err != nil {
			return err
		}
	}
	return nil
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (w *walker) emitDir(ctx context.Context, n *dirNode, dir *openDir, entries []entry, emit func(context.Context, *batch) error) error {
	defer dir.release()
	for first := true; first || len(entries) > 0; first = false {
		k := min(batchEntries, len(entries))
		b := newBatch(n, first, dir, entries[:k])
		entries = entries[k:]
		if err := emit(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// list opens directory n and returns what is in it, sorted. The caller
// releases the directory.
func (w *walker) list(n *dirNode) (*openDir, []entry, error) {
	dir, err := w.cache.open(n)
	if err != nil {
		return nil, nil, fmt.Errorf("open directory: %w", err)
	}
	shut, err := w.shut(n, dir.fd)
	if shut && err == nil {
		return dir, nil, nil
	}
	var entries []entry
	if err == nil {
		entries, err = w.readNames(n, dir.fd)
	}
	if err != nil {
		dir.release()
		return nil, nil, fmt.Errorf("read directory: %w", err)
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return dir, entries, nil
}

// shut reports whether the content of directory n is not to be looked at.
func (w *walker) shut(n *dirNode, fd int) (bool, error) {
	if !w.opts.OneFileSystem && len(w.skip) == 0 {
		return false, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if w.skip[fileID{st.Dev, st.Ino}] {
		w.opts.Log.Warn("left out what is in the directory", "path", n.path(""))
		return true, nil
	}
	return w.opts.OneFileSystem && st.Dev != w.rootDev, nil
}

// readNames reads directory fd, without what is excluded.
func (w *walker) readNames(n *dirNode, fd int) ([]entry, error) {
	var entries []entry
	var path []string
	if w.exclude.needsPath() {
		path = n.names()
	}
	for {
		k, err := unix.Getdents(fd, w.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || k == 0 {
			return entries, err
		}
		err = eachDirent(w.buf[:k], func(name string, typ uint8) error {
			typ, err := knownType(fd, name, typ)
			if err != nil {
				return err
			}
			isDir := typ == unix.DT_DIR
			if !w.exclude.empty() && w.exclude.Match(path, name, isDir) {
				return nil
			}
			e := entry{name: name, typ: typ}
			if isDir {
				e.node = &dirNode{parent: n, name: name}
			}
			entries = append(entries, e)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
}

// knownType asks for the type of an entry where the file system's listing
// does not tell it.
func knownType(fd int, name string, typ uint8) (uint8, error) {
	if typ != unix.DT_UNKNOWN {
		return typ, nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, fmt.Errorf("stat %q: %w", name, err)
	}
	return uint8(st.Mode & unix.S_IFMT >> 12), nil
}
