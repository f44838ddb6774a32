package chunkstore

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
)

const benchSize = 128 << 10

// BenchmarkPut puts incompressible chunks, from twice as many goroutines as
// there are processors.
func BenchmarkPut(b *testing.B) {
	for _, trusted := range []bool{false, true} {
		name := "verified"
		if trusted {
			name = "trusted"
		}
		b.Run(name, func(b *testing.B) {
			s := openT(b, b.TempDir(), Options{})
			b.SetBytes(benchSize)
			b.SetParallelism(2)
			var seed atomic.Uint64
			b.RunParallel(func(pb *testing.PB) {
				data := randomBytes(seed.Add(1), benchSize)
				for pb.Next() {
					putNumber(data, seed.Add(1))
					p := chunk.Packed{ID: chunk.Sum(data), Size: len(data), Bytes: data}
					put := s.Put
					if trusted {
						put = s.PutTrusted
					}
					if err := put(b.Context(), p); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func BenchmarkGet(b *testing.B) {
	s := openT(b, b.TempDir(), Options{})
	ids := make([]chunk.ID, 512)
	data := randomBytes(1, benchSize)
	for i := range ids {
		putNumber(data, uint64(i))
		ids[i] = chunk.Sum(data)
		if err := s.PutTrusted(b.Context(), chunk.Packed{ID: ids[i], Size: len(data), Bytes: data}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("plain", func(b *testing.B) {
		b.SetBytes(benchSize)
		for i := 0; b.Loop(); i++ {
			if _, err := s.Get(b.Context(), ids[rand.IntN(len(ids))]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("has", func(b *testing.B) {
		for b.Loop() {
			if held, err := s.Has(b.Context(), ids[rand.IntN(len(ids))]); err != nil || !held {
				b.Fatal(held, err)
			}
		}
	})
}
