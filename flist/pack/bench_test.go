package pack_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/pack"
)

// discard is a Sink that keeps nothing.
type discard struct{}

func (discard) Put(context.Context, chunk.Packed) error { return nil }

// BenchmarkPack packs a generated tree of 4,000 files, or the directory named
// by FLISTNODE_BENCH_DIR, into a sink that discards.
func BenchmarkPack(b *testing.B) {
	dir := os.Getenv("FLISTNODE_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
		generate(b, dir, 4000)
	}
	b.ReportAllocs()
	for b.Loop() {
		res, err := pack.Dir(b.Context(), dir, discard{}, pack.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(res.Bytes)
		b.ReportMetric(float64(res.Entries)/res.Elapsed.Seconds(), "entries/s")
	}
}

// generate makes n files of compressible text in directories of 50, most of
// them small.
func generate(tb testing.TB, dir string, n int) {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 2000)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", r.Uint64N(1<<(4+r.Uint64N(40))))
	}
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", i/50))
		if i%50 == 0 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				tb.Fatal(err)
			}
		}
		size := 1 << (6 + r.IntN(9))
		if i%40 == 0 {
			size = 1 << (17 + r.IntN(4))
		}
		var content []byte
		for len(content) < size {
			content = append(content, words[r.IntN(len(words))]...)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), content, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}
