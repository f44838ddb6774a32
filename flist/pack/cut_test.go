package pack

import (
	"math/rand/v2"
	"testing"

	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
)

// slowCut is docs/format.md put into code, a byte at a time.
func slowCut(data []byte) int {
	var gear uint64
	for i, b := range data {
		if i == CutMax {
			return i
		}
		if i < CutMin {
			continue
		}
		gear = 2*gear + fastcdc.G[b]
		mask := uint64(0x9249249249249000)
		if i >= CutNormal {
			mask = 0x8888888888888800
		}
		if gear&mask == 0 {
			return i
		}
	}
	return len(data)
}

func TestCutPointsAreThoseOfTheFormat(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 16<<20)
	if _, err := r.Read(data); err != nil {
		t.Fatal(err)
	}
	clear(data[8<<20 : 10<<20]) // no cut before CutMax
	seen := map[string]int{}
	for rest := data; len(rest) > 0; {
		n := cutPoint(rest)
		if want := slowCut(rest); n != want {
			t.Fatalf("chunk of %d bytes, want %d, with %d bytes left", n, want, len(rest))
		}
		switch {
		case n == CutMax:
			seen["max"]++
		case n > CutNormal:
			seen["after normal"]++
		case n >= CutMin:
			seen["before normal"]++
		}
		rest = rest[n:]
	}
	for _, kind := range []string{"max", "after normal", "before normal"} {
		if seen[kind] == 0 {
			t.Errorf("no chunk was cut %s: %v", kind, seen)
		}
	}
	for _, n := range []int{0, 1, CutMin - 1, CutMin, CutMin + 1, CutNormal, CutNormal + 1} {
		if got, want := cutPoint(data[:n]), slowCut(data[:n]); got != want {
			t.Errorf("%d bytes: cut at %d, want %d", n, got, want)
		}
	}
}
