package chunk_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
)

// BenchmarkOpen opens a compressed chunk of the usual size without a buffer, as
// reads of a mount do, and with one that has room behind the content or none.
func BenchmarkOpen(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	var content []byte
	for len(content) < 120_000 {
		content = fmt.Appendf(content, "%x word%d ", r.Uint32(), r.IntN(1000))
	}
	p := chunk.Pack(content)
	if p.Codec != chunk.Zstd {
		b.Fatal("the content was not compressed")
	}
	for name, buf := range map[string][]byte{"no buffer": nil, "no room": make([]byte, p.Size), "room": make([]byte, p.Size+64)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(p.Size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.OpenInto(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
