package liar

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
)

func TestNothingALiarSaysIsTheChunk(t *testing.T) {
	kinds := map[byte]bool{}
	for len(kinds) < 4 {
		data := make([]byte, 5000)
		_, _ = rand.Read(data)
		p := chunk.Pack(data)
		kinds[p.ID[0]%4] = true
		bad, err := spoil(p)
		if err != nil {
			t.Fatal(err)
		}
		if bad.ID != p.ID {
			t.Fatal("a liar must answer what was asked for")
		}
		if got, err := bad.Open(); err == nil && bytes.Equal(got, data) {
			t.Errorf("kind %d is the right content", p.ID[0]%4)
		}
	}
}
