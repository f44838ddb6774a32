package pack_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/pack"
)

// memory is a store for tests.
type memory struct {
	mu     sync.Mutex
	chunks map[chunk.ID]chunk.Packed
}

func newMemory() *memory { return &memory{chunks: map[chunk.ID]chunk.Packed{}} }

func (m *memory) Put(_ context.Context, p chunk.Packed) error {
	p.Bytes = slices.Clone(p.Bytes)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chunks[p.ID] = p
	return nil
}

func (m *memory) Get(_ context.Context, id chunk.ID) ([]byte, error) {
	m.mu.Lock()
	p, ok := m.chunks[id]
	m.mu.Unlock()
	if !ok {
		return nil, chunk.ErrNotFound
	}
	return p.Open()
}

// facts are all that must survive packing.
type facts struct {
	Attr   flist.Attr
	Target string
	Xattrs map[string]string
	Names  []string // all paths of the inode, sorted
	Holes  []span
	Sum    [32]byte // of files below 64 MiB
}

type span struct{ Offset, Length uint64 }

const hashedBelow = 64 << 20

// scan tells the facts of a directory tree, without going through paths.
func scan(t *testing.T, dir string) map[string]facts {
	t.Helper()
	out := map[string]facts{}
	names := map[[2]uint64][]string{}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	inodes := map[string][2]uint64{}
	var visit func(parent int, name, path string)
	visit = func(parent int, name, path string) {
		var stx unix.Statx_t
		must(t, unix.Statx(parent, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &stx))
		key := [2]uint64{uint64(stx.Dev_minor), stx.Ino}
		inodes[path] = key
		names[key] = append(names[key], path)
		f := facts{Attr: attrOf(&stx), Xattrs: xattrsOf(t, parent, name)}
		switch stx.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			b := make([]byte, 5000)
			n, err := unix.Readlinkat(parent, name, b)
			must(t, err)
			f.Target = string(b[:n])
		case unix.S_IFREG:
			sub, err := unix.Openat(parent, name, unix.O_RDONLY, 0)
			must(t, err)
			f.Holes, f.Sum = contentOf(t, sub, stx.Size)
		case unix.S_IFDIR:
			f.Attr.Size = 0
			sub, err := unix.Openat(parent, "./"+name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			file := os.NewFile(uintptr(sub), name)
			defer file.Close()
			entries, err := file.Readdirnames(-1)
			must(t, err)
			for _, e := range entries {
				visit(sub, e, strings.TrimSuffix(path, "/")+"/"+e)
			}
		default:
			f.Attr.Size = 0
		}
		out[path] = f
	}
	visit(fd, "", "/")
	for path, f := range out {
		f.Names = names[inodes[path]]
		slices.Sort(f.Names)
		out[path] = f
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func attrOf(s *unix.Statx_t) flist.Attr {
	return flist.Attr{
		Mode: uint32(s.Mode), UID: s.Uid, GID: s.Gid, Nlink: s.Nlink, Size: s.Size,
		Rdev:     unix.Mkdev(s.Rdev_major, s.Rdev_minor),
		Mtime:    flist.Time{Sec: s.Mtime.Sec, Nsec: s.Mtime.Nsec},
		Btime:    flist.Time{Sec: s.Btime.Sec, Nsec: s.Btime.Nsec},
		HasBtime: s.Mask&unix.STATX_BTIME != 0,
	}
}

func xattrsOf(t *testing.T, dirfd int, name string) map[string]string {
	t.Helper()
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dirfd, name)
	b := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, b)
	must(t, err)
	var out map[string]string
	for key := range strings.SplitSeq(string(b[:n]), "\x00") {
		if key == "" {
			continue
		}
		v := make([]byte, 1<<16)
		k, err := unix.Lgetxattr(path, key, v)
		must(t, err)
		if out == nil {
			out = map[string]string{}
		}
		out[key] = string(v[:k])
	}
	return out
}

func contentOf(t *testing.T, fd int, size uint64) (holes []span, sum [32]byte) {
	t.Helper()
	f := os.NewFile(uintptr(fd), "file")
	defer f.Close()
	for off := int64(0); off < int64(size); {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data = int64(size)
		} else {
			must(t, err)
		}
		if data > off {
			holes = append(holes, span{uint64(off), uint64(data - off)})
		}
		if off = data; off < int64(size) {
			off, err = unix.Seek(fd, off, unix.SEEK_HOLE)
			must(t, err)
		}
	}
	if size < hashedBelow {
		_, err := f.Seek(0, io.SeekStart)
		must(t, err)
		h := sha256.New()
		_, err = io.Copy(h, f)
		must(t, err)
		h.Sum(sum[:0])
	}
	return holes, sum
}

// describe tells the facts of an image, reading all content from src, and
// checks the recorded digests on the way.
func describe(t *testing.T, src chunk.Source, im *flist.Image) map[string]facts {
	t.Helper()
	digests, err := im.Digests(t.Context(), src)
	must(t, err)
	out := map[string]facts{}
	names := map[flist.Inode][]string{}
	inodes := map[string]flist.Inode{}
	must(t, im.Walk(func(path []byte, ino flist.Inode) error {
		inodes[string(path)] = ino
		names[ino] = append(names[ino], string(path))
		f := facts{Attr: im.Attr(ino), Target: string(im.Target(ino))}
		for k, v := range im.Xattrs(ino) {
			if f.Xattrs == nil {
				f.Xattrs = map[string]string{}
			}
			f.Xattrs[string(k)] = string(v)
		}
		if f.Attr.IsRegular() {
			f.Holes, f.Sum = imageContent(t, src, im, ino)
			if got, ok := digests.Of(ino); f.Attr.Size < hashedBelow && (!ok || got != f.Sum) {
				t.Errorf("%q: recorded digest %x (%v), content has %x", path, got, ok, f.Sum)
			}
		}
		out[string(path)] = f
		return nil
	}))
	for path, f := range out {
		f.Names = names[inodes[path]]
		slices.Sort(f.Names)
		out[path] = f
	}
	return out
}

func imageContent(t *testing.T, src chunk.Source, im *flist.Image, ino flist.Inode) (holes []span, sum [32]byte) {
	t.Helper()
	h := sha256.New()
	small := im.Attr(ino).Size < hashedBelow
	for off := uint64(0); ; {
		p, ok := im.PieceAt(ino, off)
		if !ok {
			break
		}
		off += p.Length
		if p.Hole {
			holes = append(holes, span{p.Offset, p.Length})
			if small {
				h.Write(make([]byte, p.Length))
			}
			continue
		}
		id, size := im.Chunk(p.Chunk)
		data, err := src.Get(t.Context(), id)
		must(t, err)
		if len(data) != size {
			t.Errorf("chunk %s has %d bytes, the flist says %d", id, len(data), size)
		}
		h.Write(data[p.ChunkOffset:][:p.Length])
	}
	if small {
		h.Sum(sum[:0])
	}
	return holes, sum
}

// dataChunks lists the data chunks of what was packed.
func dataChunks(t testing.TB, src chunk.Source, res pack.Result) []chunk.ID {
	t.Helper()
	im, err := flist.Load(t.Context(), src, res.CID)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]chunk.ID, im.NumChunks())
	for i := range ids {
		ids[i], _ = im.Chunk(uint32(i))
	}
	return ids
}
