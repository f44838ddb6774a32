package profile

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEncodedProfileIsReadBack(t *testing.T) {
	for name, p := range map[string]Profile{
		"empty":     {},
		"forward":   {0, 1, 2, 3},
		"backward":  {9, 5, 0},
		"far apart": {0, math.MaxUint32 - 1, 1},
	} {
		got, err := Decode(p.Encode(), math.MaxUint32)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(p, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestLongestProfileFitsItsBound(t *testing.T) {
	p := make(Profile, MaxChunks+10)
	for i := range p {
		p[i] = uint32(i)
		if i%2 == 1 {
			p[i] = math.MaxUint32 - uint32(i)
		}
	}
	b := p.Encode()
	if len(b) > MaxBytes {
		t.Errorf("%d bytes, bound %d", len(b), MaxBytes)
	}
	got, err := Decode(b, math.MaxInt)
	if err != nil || len(got) != MaxChunks {
		t.Errorf("%d chunks, %v; want %d", len(got), err, MaxChunks)
	}
}

func TestForeignBytesAreNoProfile(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"another version":      {2, 0},
		"no count":             {1},
		"count without chunks": {1, 3, 2},
		"huge count":           {1, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"below the image":      {1, 1, 1},
		"beyond the image":     {1, 1, 20},
		"bytes behind the end": {1, 1, 2, 0},
	} {
		if _, err := Decode(b, 10); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChunkNamedTwiceCountsOnce(t *testing.T) {
	got, err := Decode([]byte{1, 3, 4, 0, 2}, 10) // 2, 2, 3
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Profile{2, 3}, got); diff != "" {
		t.Error(diff)
	}
}

func TestMergePutsTheNewerOrderFirst(t *testing.T) {
	if diff := cmp.Diff(Profile{3, 1, 2}, Profile{3, 1}.Merge(Profile{1, 2, 3})); diff != "" {
		t.Error(diff)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Profile{1, 5, 2}.Encode(), 10)
	f.Add([]byte{1, 0xff, 0xff, 3, 2}, 1<<20)
	f.Fuzz(func(t *testing.T, b []byte, chunks int) {
		p, err := Decode(b, chunks)
		if err != nil {
			return
		}
		for _, i := range p {
			if int64(i) >= int64(chunks) {
				t.Fatalf("chunk %d of %d", i, chunks)
			}
		}
		again, err := Decode(p.Encode(), chunks)
		if err != nil || !cmp.Equal(p, again) {
			t.Fatalf("%v became %v, %v", p, again, err)
		}
	})
}
