package mount_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// memory is a Source and Sink that can hold chunks back and spoil them.
type memory struct {
	mu     sync.Mutex
	chunks map[chunk.ID][]byte
	away   map[chunk.ID]chan struct{} // closed when the chunk arrives
	broken map[chunk.ID]error
	gets   map[chunk.ID]int
}

func newMemory() *memory {
	return &memory{chunks: map[chunk.ID][]byte{}, away: map[chunk.ID]chan struct{}{}, broken: map[chunk.ID]error{}, gets: map[chunk.ID]int{}}
}

func (m *memory) Put(_ context.Context, p chunk.Packed) error {
	data, err := p.Open()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chunks[p.ID] = bytes.Clone(data)
	return nil
}

func (m *memory) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	m.mu.Lock()
	m.gets[id]++
	data, ok := m.chunks[id]
	away, err := m.away[id], m.broken[id]
	m.mu.Unlock()
	if away != nil {
		select {
		case <-away:
		case <-ctx.Done():
			return nil, fmt.Errorf("asked peer-one and peer-two: %w", ctx.Err())
		}
	}
	if err == nil && !ok {
		err = chunk.ErrNotFound
	}
	return data, err
}

// hold makes Get of id wait until the returned function is called.
func (m *memory) hold(id chunk.ID) (arrive func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan struct{})
	m.away[id] = c
	return sync.OnceFunc(func() { close(c) })
}

func (m *memory) spoil(id chunk.ID, data []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chunks[id], m.broken[id] = data, err
}

func (m *memory) got(id chunk.ID) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gets[id]
}

// item is a node of a test tree. A hard link has only link set, which is the
// item it is another name of.
type item struct {
	flist.Node
	parts []part
	items map[string]*item
	link  *item

	ino flist.Inode // set by build
}

// part is a run of a file: data, or a hole of so many bytes.
type part struct {
	data []byte
	hole uint64
}

func (it *item) content() []byte {
	var all []byte
	for _, p := range it.parts {
		all = append(append(all, p.data...), make([]byte, p.hole)...)
	}
	return all
}

func dir(mode uint32, items map[string]*item) *item {
	return &item{Node: flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | mode}}, items: items}
}

func file(mode uint32, data []byte) *item {
	return &item{Node: flist.Node{Attr: flist.Attr{Mode: flist.ModeRegular | mode}}, parts: []part{{data: data}}}
}

func special(mode uint32, rdev uint64) *item {
	return &item{Node: flist.Node{Attr: flist.Attr{Mode: mode, Rdev: rdev}}}
}

func symlink(target string) *item {
	return &item{Node: flist.Node{Attr: flist.Attr{Mode: flist.ModeSymlink | 0o777}, Target: []byte(target)}}
}

// noise returns n bytes that do not compress and are the same for the same
// seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r.Read(b)
	return b
}

// Sizes of the test images' chunks: small and odd, so that reads meet borders.
const (
	smallFile = 4 << 10
	packSize  = 8 << 10
	cutSize   = 50_001
)

// build makes an image of a tree. Small files share packs, others are cut.
func build(t testing.TB, m *memory, root *item) *flist.Image {
	t.Helper()
	b, err := flist.NewBuilder(m, flist.BuilderOptions{TempDir: t.TempDir()})
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
	put := func(s flist.Stream, data []byte) {
		id := chunk.Sum(data)
		check(m.Put(t.Context(), chunk.PackAs(id, data)))
		check(b.AddChunk(s, id, len(data)))
	}
	var pack []byte
	byInode := map[flist.Inode]*item{flist.RootInode: root}
	check(b.Root(root.Node))
	for ino, ok := b.NextDir(); ok; ino, ok = b.NextDir() {
		d := byInode[ino]
		for _, name := range slices.Sorted(maps.Keys(d.items)) {
			it := d.items[name]
			if it.link != nil {
				check(b.Link([]byte(name), it.link.ino))
				continue
			}
			for _, p := range it.parts {
				if p.hole > 0 {
					it.Extents = append(it.Extents, flist.Extent{Kind: flist.Hole, Length: p.hole})
				}
				if len(p.data) == 0 {
					continue
				}
				stream := flist.Cut
				if len(p.data) < smallFile {
					stream = flist.Packed
					if pack = append(pack, p.data...); len(pack) > packSize {
						put(flist.Packed, pack)
						pack = nil
					}
				} else {
					for c := range slices.Chunk(p.data, cutSize) {
						put(flist.Cut, c)
					}
				}
				it.Extents = append(it.Extents, flist.Extent{Kind: flist.Fresh, Stream: stream, Length: uint64(len(p.data))})
			}
			it.ino, err = b.Add([]byte(name), it.Node)
			check(err)
			byInode[it.ino] = it
		}
	}
	if len(pack) > 0 {
		put(flist.Packed, pack)
	}
	c, _, err := b.Finish(t.Context())
	check(err)
	im, err := flist.Load(t.Context(), m, c)
	check(err)
	return im
}
