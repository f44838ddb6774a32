package flist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist/chunk"
)

// manyNames builds an image whose columns are longer than a fill's buffer,
// and whose inodes take two chunks, with files, hard links, symlinks, directories and xattrs.
func manyNames(t *testing.T) (cid.Cid, chunks) {
	t.Helper()
	m := chunks{}
	b, err := NewBuilder(m, BuilderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := Node{Attr: Attr{Mode: ModeDir | 0o755}}
	const dirs, files, size = 500, 100, 100
	check(b.Root(dir))
	b.NextDir()
	for d := range dirs {
		_, err := b.Add(fmt.Appendf(nil, "directory %d", 1000+d), dir)
		check(err)
	}
	for d := range dirs {
		b.NextDir()
		for f := range files {
			name := fmt.Appendf(nil, "name %d", 1000+f)
			switch f % 10 {
			case 1:
				check(b.Link(name, Inode(dirs+1)))
			case 2:
				_, err = b.Add(name, Node{Attr: Attr{Mode: ModeSymlink | 0o777}, Target: fmt.Appendf(nil, "../%d", f)})
			default:
				n := Node{Attr: Attr{Mode: ModeRegular | 0o644, Mtime: Time{Sec: int64(d*files + f)}}, Extents: []Extent{{Length: size}, {Kind: Hole, Length: 5}}}
				if f%10 == 3 {
					n.Xattrs = []Xattr{{[]byte("user.f"), fmt.Append(nil, f)}}
				}
				_, err = b.Add(name, n)
			}
			check(err)
		}
		check(b.AddChunk(Packed, chunk.Sum(fmt.Append(nil, d)), files/10*8*size))
	}
	for ok := true; ok; {
		_, ok = b.NextDir()
	}
	c, _, err := b.Finish(t.Context())
	check(err)
	r, err := LoadRoot(t.Context(), m, c)
	check(err)
	if len(r.Sections[SectionInodes].Chunks) < 2 {
		t.Fatal("the table of inodes is one chunk")
	}
	return c, m
}

// mappings counts the files of tables that this process has mapped.
func mappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "/flist-image-")
}

// descriptors counts the open files of tables.
func descriptors(t *testing.T) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.Contains(to, "/flist-image-") {
			n++
		}
	}
	return n
}

// TestMappedTablesAreThoseOnTheHeap compares all columns, and uses them.
func TestMappedTablesAreThoseOnTheHeap(t *testing.T) {
	c, m := manyNames(t)
	heap, err := Load(t.Context(), m, c)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mapped, err := LoadMapped(t.Context(), m, c, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer mapped.Close()
	if !bytes.Equal(heap.mem.b, mapped.mem.b) {
		t.Error("tables differ")
	}
	use(t, mapped)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the directory has %v, %v", left, err)
	}
	if maps, fds := mappings(t), descriptors(t); maps != 1 || fds != 0 {
		t.Errorf("%d mappings, %d open files; want 1, 0", maps, fds)
	}
}

// TestTablesLiveAsLongAsAReference closes the references one after the other.
func TestTablesLiveAsLongAsAReference(t *testing.T) {
	c, m := manyNames(t)
	first, err := LoadMapped(t.Context(), m, c, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	second := first.Share()
	want := second.Attr(400)
	var users sync.WaitGroup
	for range 4 { // they look up while another reference is closed
		own := second.Share()
		users.Go(func() {
			defer own.Close()
			if err := own.Walk(func(_ []byte, ino Inode) error { own.Attr(ino); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	first.Close()
	first.Close() // does nothing
	users.Wait()
	if got := second.Attr(400); got != want {
		t.Errorf("attributes %+v, before the other reference was closed %+v", got, want)
	}
	if n := mappings(t); n != 1 {
		t.Errorf("%d mappings while there is a reference", n)
	}
	second.Close()
	if n := mappings(t); n != 0 {
		t.Errorf("%d mappings after the last Close", n)
	}
	for name, use := range map[string]func(){
		"Attr":    func() { first.Attr(0) },
		"Entries": func() { first.Entries(0) },
		"Entry":   func() { first.Entry(0) },
		"Target":  func() { first.Target(0) },
		"PieceAt": func() { first.PieceAt(400, 0) },
		"Chunk":   func() { first.Chunk(0) },
		"Path":    func() { first.Path(5) },
		"Xattrs":  func() { first.HasXattrs(0) },
		"Share":   func() { first.Share() },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("a closed image answered")
				}
			}()
			use()
		})
	}
	if !first.CID().Equals(c) || first.NumInodes() != 0 || first.NumChunks() != 0 {
		t.Error("a closed image has something else than its name")
	}
}

// fullFile is a tableFile on a disk with room for some bytes.
type fullFile struct {
	tableFile
	mu   sync.Mutex
	left int
}

func (f *fullFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.left -= len(p)
	full := f.left < 0
	f.mu.Unlock()
	if full {
		return 0, syscall.ENOSPC
	}
	return f.tableFile.WriteAt(p, off)
}

// TestAFullDiskIsAnError lets the disk be full at any time of the loading.
func TestAFullDiskIsAnError(t *testing.T) {
	c, m := manyNames(t)
	dir := t.TempDir()
	loadWith := func(room int) error {
		im, err := load(t.Context(), m, c, func(size int64) (*memory, error) {
			mem, err := mappedMemory(dir)(size)
			if err == nil {
				mem.file = &fullFile{tableFile: mem.file, left: room}
			}
			return mem, err
		})
		if err == nil {
			im.Close()
		}
		return err
	}
	refused := 0
	for room := 0; room < 1<<30; room = room*3/2 + 1000 {
		err := loadWith(room)
		if err == nil {
			break
		}
		refused++
		if !errors.Is(err, ErrTableFile) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
		if maps, fds := mappings(t), descriptors(t); maps+fds > 0 {
			t.Fatalf("with room for %d bytes: %d mappings and %d files are left", room, maps, fds)
		}
	}
	if refused < 5 {
		t.Errorf("loading failed %d times only", refused)
	}
	if _, err := LoadMapped(t.Context(), m, c, dir+"/none"); !errors.Is(err, ErrTableFile) {
		t.Errorf("without the directory: %v", err)
	}
}

// TestAFailedLoadLeavesNothing takes chunks away and breaks tables.
func TestAFailedLoadLeavesNothing(t *testing.T) {
	c, m := manyNames(t)
	dir := t.TempDir()
	r, err := LoadRoot(t.Context(), m, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range r.MetadataChunks(false) {
		whole := m[id]
		delete(m, id)
		if _, err := LoadMapped(t.Context(), m, c, dir); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("without chunk %s: %v", id, err)
		}
		m[id] = append(bytes.Repeat([]byte{0xff}, len(whole)-1), 0)
		if im, err := LoadMapped(t.Context(), m, c, dir); err == nil {
			im.Close()
			t.Errorf("chunk %s can be anything", id)
		}
		m[id] = whole
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := LoadMapped(ctx, m, c, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if maps, fds := mappings(t), descriptors(t); maps+fds > 0 {
		t.Errorf("%d mappings and %d files are left", maps, fds)
	}
}

// owned is a source whose content belongs to who asks.
type owned struct{ chunks }

func (m owned) GetOwned(ctx context.Context, id chunk.ID) ([]byte, error) {
	b, err := m.Get(ctx, id)
	return append(chunk.NewBuffer(len(b))[:0], b...), err
}

// TestRecycledChunksAreNotKept overwrites the buffers Load has given back.
func TestRecycledChunksAreNotKept(t *testing.T) {
	c, m := manyNames(t)
	want, err := Load(t.Context(), m, c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(t.Context(), owned{m}, c)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		b := chunk.NewBuffer(chunk.MaxSize)
		for i := range b {
			b[i] = 0xaa
		}
	}
	if !bytes.Equal(want.mem.b, got.mem.b) {
		t.Error("tables differ")
	}
}
