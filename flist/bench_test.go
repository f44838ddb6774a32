package flist_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// packedMemory keeps chunks as a store does: Get decompresses and verifies.
type packedMemory map[chunk.ID]chunk.Packed

var putting sync.Mutex // held while a chunk is put into any of them

func (m packedMemory) Put(_ context.Context, p chunk.Packed) error {
	p.Bytes = append([]byte(nil), p.Bytes...)
	putting.Lock()
	defer putting.Unlock()
	m[p.ID] = p
	return nil
}

func (m packedMemory) Get(_ context.Context, id chunk.ID) ([]byte, error) {
	p, ok := m[id]
	if !ok {
		return nil, chunk.ErrNotFound
	}
	return p.Open()
}

// million builds an image of a million inodes: 10,000 directories of 99 files.
func million(tb testing.TB, m packedMemory) cid.Cid {
	tb.Helper()
	b, err := flist.NewBuilder(m, flist.BuilderOptions{TempDir: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	defer b.Close()
	check := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	dir := flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o755}}
	check(b.Root(dir))
	b.NextDir()
	const dirs, files, size, packSize = 10_000, 99, 3000, 99 * 3000
	for i := range dirs {
		_, err := b.Add(fmt.Appendf(nil, "directory-%05d", i), dir)
		check(err)
	}
	for d := range dirs {
		b.NextDir()
		for f := range files {
			n := d*files + f
			_, err := b.Add(fmt.Appendf(nil, "some-file-name-%02d.txt", f), flist.Node{
				Attr: flist.Attr{Mode: flist.ModeRegular | 0o644, Mtime: flist.Time{Sec: int64(1.7e9) + int64(n*7919%1e6)},
					Btime: flist.Time{Sec: 1.7e9, Nsec: uint32(n) * 977}, HasBtime: true},
				Extents: []flist.Extent{{Kind: flist.Fresh, Length: size}}, Digest: chunk.Sum(fmt.Append(nil, n)), HasDigest: true,
			})
			check(err)
		}
		check(b.AddChunk(flist.Packed, chunk.Sum(fmt.Append(nil, "pack", d)), packSize))
	}
	b.NextDir()
	c, _, err := b.Finish(tb.Context())
	check(err)
	return c
}

func BenchmarkLoadMillion(b *testing.B) {
	m := packedMemory{}
	c := million(b, m)
	runtime.GC()
	runtime.GC() // pooled coders of the Builder go at the second
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, load := range map[string]func() (*flist.Image, error){
		"heap":   func() (*flist.Image, error) { return flist.Load(b.Context(), m, c) },
		"mapped": func() (*flist.Image, error) { return flist.LoadMapped(b.Context(), m, c, b.TempDir()) },
	} {
		b.Run(name, func(b *testing.B) {
			var im *flist.Image
			for b.Loop() {
				if im != nil {
					im.Close()
				}
				var err error
				if im, err = load(); err != nil {
					b.Fatal(err)
				}
			}
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/1e6, "MB-kept")
			im.Close()
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	m := packedMemory{}
	im, err := flist.Load(b.Context(), m, million(b, m))
	if err != nil {
		b.Fatal(err)
	}
	name := []byte("some-file-name-42.txt")
	b.ReportAllocs()
	for b.Loop() {
		ino, ok := im.Lookup(5000, name)
		if !ok || im.Attr(ino).Size != 3000 {
			b.Fatal("not found")
		}
		if p, ok := im.PieceAt(ino, 100); !ok || p.Length != 2900 {
			b.Fatal("no piece")
		}
	}
}
