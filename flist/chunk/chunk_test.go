package chunk_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/ipfs/go-cid"
)

func TestIDAgreesWithIPFS(t *testing.T) {
	// The name `ipfs add --cid-version=1 --raw-leaves` gives these six bytes.
	const want = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"
	if got := chunk.Sum([]byte("hello\n")).String(); got != want {
		t.Errorf("CID of hello = %s, want %s", got, want)
	}
}

func TestFromCID(t *testing.T) {
	id := chunk.Sum([]byte("x"))
	for _, c := range []cid.Cid{id.CID(), cid.NewCidV1(cid.DagCBOR, id.Multihash())} {
		if got, err := chunk.FromCID(c); err != nil || got != id {
			t.Errorf("FromCID(%s) = %s, %v", c, got, err)
		}
	}
	for _, s := range []string{
		"bafkqaaa", // identity hash
		"bafkrgqhhyivzstcz3hhswshfjgy6ertgmnqeleynhwt4dlfsthi4hn7zgh4uvlsb5xncykzapi3ocd4lzogukir6ksdy6wzrnz6ohnv4aglcs", // sha2-512
	} {
		c, err := cid.Decode(s)
		if err != nil {
			t.Fatalf("bad test CID %s: %v", s, err)
		}
		if _, err := chunk.FromCID(c); err == nil {
			t.Errorf("FromCID(%s) took a hash that is not sha2-256", s)
		}
	}
	if _, err := chunk.FromCID(cid.Undef); err == nil {
		t.Error("FromCID took an undefined CID")
	}
}

func TestPackedRoundTrip(t *testing.T) {
	random := make([]byte, 100_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, c := range map[string]struct {
		data  []byte
		codec chunk.Codec
	}{
		"empty":          {nil, chunk.Plain},
		"short":          {[]byte("abc"), chunk.Plain},
		"compressible":   {bytes.Repeat([]byte("flist "), 20_000), chunk.Zstd},
		"incompressible": {random, chunk.Plain},
		"largest":        {make([]byte, chunk.MaxSize), chunk.Zstd},
	} {
		t.Run(name, func(t *testing.T) {
			p := chunk.Pack(c.data)
			if p.Codec != c.codec {
				t.Errorf("codec = %d, want %d", p.Codec, c.codec)
			}
			q, err := chunk.ParsePacked(p.ID, p.AppendTo(nil))
			if err != nil {
				t.Fatal(err)
			}
			got, err := q.Open()
			if err != nil || !bytes.Equal(got, c.data) {
				t.Errorf("Open: %d bytes, %v; want %d bytes", len(got), err, len(c.data))
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	good := chunk.Pack(bytes.Repeat([]byte("flist "), 1000))
	edit := func(f func(p *chunk.Packed)) chunk.Packed {
		p := good
		p.Bytes = bytes.Clone(good.Bytes)
		f(&p)
		return p
	}
	bomb := chunk.Pack(make([]byte, chunk.MaxSize))
	bomb.Size = 10
	for name, p := range map[string]chunk.Packed{
		"flipped bit":   edit(func(p *chunk.Packed) { p.Bytes[len(p.Bytes)/2] ^= 1 }),
		"cut short":     edit(func(p *chunk.Packed) { p.Bytes = p.Bytes[:len(p.Bytes)-1] }),
		"nothing":       edit(func(p *chunk.Packed) { p.Bytes = nil }),
		"other content": edit(func(p *chunk.Packed) { p.ID[0] ^= 1 }),
		"wrong size":    edit(func(p *chunk.Packed) { p.Size-- }),
		"unknown codec": edit(func(p *chunk.Packed) { p.Codec = 7 }),
		"too large":     edit(func(p *chunk.Packed) { p.Size = chunk.MaxSize + 1 }),
		"bomb":          bomb,
	} {
		var corrupt *chunk.CorruptError
		if got, err := p.Open(); !errors.As(err, &corrupt) {
			t.Errorf("%s: Open = %d bytes, %v; want a CorruptError", name, len(got), err)
		}
	}
}

func FuzzParsePacked(f *testing.F) {
	f.Add(chunk.Pack([]byte("seed")).AppendTo(nil))
	f.Add(chunk.Pack(make([]byte, 5000)).AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := chunk.ParsePacked(chunk.Sum([]byte("seed")), b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.AppendTo(nil), b) {
			t.Error("a parsed chunk does not encode to the same bytes")
		}
		if data, err := p.Open(); err == nil && !bytes.Equal(data, []byte("seed")) {
			t.Error("Open let other content through")
		}
	})
}

func TestPackIntoWritesIntoTheBufferAndHoldsNothingElse(t *testing.T) {
	text := bytes.Repeat([]byte("flist "), 5000)
	noise := make([]byte, 30_000)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	for name, data := range map[string][]byte{"nothing": {}, "text": text, "noise": noise} {
		buf := make([]byte, chunk.RoomToPack(len(data)))
		want := bytes.Clone(data)
		p := chunk.PackInto(chunk.Sum(data), data, buf)
		if len(data) > 0 && &p.Bytes[0] != &buf[0] {
			t.Errorf("%s: the encoded bytes are not in the buffer", name)
		}
		clear(data)
		if got, err := p.Open(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: PackInto made %d bytes, %v", name, len(got), err)
		}
	}
}
