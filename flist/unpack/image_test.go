package unpack_test

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/pack"
	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// memory is a store of chunks for tests. fail, if set, is asked before each Get.
type memory struct {
	mu     sync.Mutex
	chunks map[chunk.ID][]byte
	gets   int
	fail   func(n int, id chunk.ID) error
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

func (m *memory) Get(_ context.Context, id chunk.ID) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	if m.fail != nil {
		if err := m.fail(m.gets, id); err != nil {
			return nil, err
		}
	}
	data, ok := m.chunks[id]
	if !ok {
		return nil, chunk.ErrNotFound
	}
	return data, nil
}

// entry is a name in a tree that a test describes.
type entry struct {
	name     string
	node     flist.Node
	content  []byte
	linkTo   string  // path of an earlier entry: a hard link to it
	children []entry // of a directory
}

func dir(name string, mode uint32, children ...entry) entry {
	return entry{name: name, node: flist.Node{Attr: flist.Attr{Mode: unix.S_IFDIR | mode, UID: me(), GID: mine(), Mtime: flist.Time{Sec: 7}}}, children: children}
}

func file(name string, mode uint32, content string) entry {
	return entry{name: name, node: flist.Node{Attr: flist.Attr{Mode: unix.S_IFREG | mode, UID: me(), GID: mine(), Mtime: flist.Time{Sec: 8}}}, content: []byte(content)}
}

func symlink(name, target string) entry {
	return entry{name: name, node: flist.Node{Attr: flist.Attr{Mode: unix.S_IFLNK | 0o777, UID: me(), GID: mine(), Mtime: flist.Time{Sec: 9}}, Target: []byte(target)}}
}

func me() uint32   { return uint32(os.Getuid()) }
func mine() uint32 { return uint32(os.Getgid()) }

// build makes an image of a described tree, the root's children given.
func build(t *testing.T, m *memory, root ...entry) *flist.Image {
	t.Helper()
	p := newPacker(t, m)
	top := dir("", 0o755, root...)
	p.must(p.b.Root(top.node))
	dirs := []entry{top}
	made := map[string]flist.Inode{}
	paths := []string{""}
	for i := 0; i < len(dirs); i++ {
		p.b.NextDir()
		slices.SortFunc(dirs[i].children, func(a, b entry) int { return strings.Compare(a.name, b.name) })
		for _, e := range dirs[i].children {
			if e.linkTo != "" {
				p.must(p.b.Link([]byte(e.name), made[e.linkTo]))
				continue
			}
			if e.node.Attr.Mode&unix.S_IFMT == unix.S_IFREG && e.node.Extents == nil {
				e.node.Extents = p.lay(e.content)
			}
			ino, err := p.b.Add([]byte(e.name), e.node)
			p.must(err)
			made[paths[i]+"/"+e.name] = ino
			if e.node.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
				dirs, paths = append(dirs, e), append(paths, paths[i]+"/"+e.name)
			}
		}
	}
	return p.image()
}

// packer puts content into an image in the simplest way: small files share a
// chunk of about 30 KiB, others are cut every 100,000 bytes.
type packer struct {
	t    *testing.T
	m    *memory
	b    *flist.Builder
	pack []byte
	seen map[chunk.ID]uint64 // chunks of the cut stream
}

func newPacker(t *testing.T, m *memory) *packer {
	b, err := flist.NewBuilder(m, flist.BuilderOptions{TempDir: t.TempDir()})
	p := &packer{t: t, m: m, b: b, seen: map[chunk.ID]uint64{}}
	p.must(err)
	t.Cleanup(func() { b.Close() })
	return p
}

func (p *packer) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *packer) lay(content []byte) []flist.Extent {
	if len(content) == 0 {
		return nil
	}
	if len(content) < 64<<10 {
		p.pack = append(p.pack, content...)
		ext := flist.Extent{Kind: flist.Fresh, Stream: flist.Packed, Length: uint64(len(content))}
		if len(p.pack) > 30<<10 {
			p.closePack()
		}
		return []flist.Extent{ext}
	}
	return p.cut(content)
}

func (p *packer) cut(content []byte) (all []flist.Extent) {
	at := p.b.Position(flist.Cut)
	for part := range slices.Chunk(content, 100_000) {
		id := chunk.Sum(part)
		n := uint64(len(part))
		if start, ok := p.seen[id]; ok {
			all = append(all, flist.Extent{Kind: flist.Again, Stream: flist.Cut, Start: start, Length: n})
			continue
		}
		p.seen[id] = at
		at += n
		p.put(flist.Cut, part)
		all = append(all, flist.Extent{Kind: flist.Fresh, Stream: flist.Cut, Length: n})
	}
	return all
}

func (p *packer) closePack() {
	if len(p.pack) > 0 {
		p.put(flist.Packed, p.pack)
		p.pack = nil
	}
}

func (p *packer) put(s flist.Stream, data []byte) {
	c := chunk.Pack(data)
	p.must(p.m.Put(p.t.Context(), c))
	p.must(p.b.AddChunk(s, c.ID, len(data)))
}

func (p *packer) image() *flist.Image {
	p.closePack()
	p.b.NextDir() // closes the last
	root, _, err := p.b.Finish(p.t.Context())
	p.must(err)
	return load(p.t, p.m, root)
}

func load(t *testing.T, m *memory, root cid.Cid) *flist.Image {
	t.Helper()
	im, err := flist.Load(t.Context(), m, root)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// packDir makes an image of a directory on disk as --reproducible does, with
// no time clamped.
func packDir(t *testing.T, m *memory, path string) *flist.Image {
	t.Helper()
	res, err := pack.Dir(t.Context(), path, m, pack.Options{Reproducible: true})
	if err != nil {
		t.Fatal(err)
	}
	return load(t, m, res.CID)
}

func newMemory() *memory { return &memory{chunks: map[chunk.ID][]byte{}} }
