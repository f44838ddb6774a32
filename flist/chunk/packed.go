package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Codec says how the bytes of a Packed chunk are encoded.
type Codec uint8

// The codecs of format version 1. No other value is valid.
const (
	Plain Codec = 0 // the content itself
	Zstd  Codec = 1 // one zstd frame (RFC 8878) of the content
)

// Packed is a chunk as it travels and rests: its plain or compressed bytes
// with what is needed to open them.
type Packed struct {
	ID    ID
	Codec Codec
	Size  int    // plain bytes, 0 to MaxSize
	Bytes []byte // encoded bytes; never more than Size for Zstd
}

// HeaderSize is the length of the header AppendTo writes before the encoded
// bytes: one byte codec, four bytes plain size (little endian).
const HeaderSize = 5

// MaxPackedSize bounds what AppendTo writes.
const MaxPackedSize = HeaderSize + MaxSize

// worthwhile is the share of the plain size (in 1/16) that compression must
// go below to be kept: an incompressible chunk is cheaper to read plain.
const worthwhile = 15

// Pack names and compresses data, which is at most MaxSize bytes. When
// compression does not pay, Bytes is data itself.
func Pack(data []byte) Packed { return PackAs(Sum(data), data) }

// PackAs is Pack for data whose ID is already known to be id.
func PackAs(id ID, data []byte) Packed { return pack(id, data, nil, compressFast) }

// PackInto is PackAs that writes the encoded bytes into buf, which has room for
// RoomToPack(len(data)) bytes. The result holds nothing of data.
func PackInto(id ID, data, buf []byte) Packed {
	p := pack(id, data, buf, compressFast)
	if p.Codec == Plain {
		p.Bytes = append(buf[:0], data...)
	}
	return p
}

// RoomToPack is how many bytes PackInto may need for size bytes of content.
func RoomToPack(size int) int { return size + size/128 + 512 }

// PackTight is Pack with stronger compression, several times slower: for
// metadata, which every node fetches whole.
func PackTight(data []byte) Packed { return pack(Sum(data), data, nil, compressTight) }

func pack(id ID, data, buf []byte, compress func(dst, src []byte) []byte) Packed {
	p := Packed{ID: id, Codec: Plain, Size: len(data), Bytes: data}
	if len(data) < 64 {
		return p
	}
	if out := compress(buf[:0], data); out != nil && len(out) < len(data)/16*worthwhile {
		p.Codec, p.Bytes = Zstd, out
	}
	return p
}

// Open returns the verified plain content of p, or a *CorruptError. For a
// Plain chunk the content is p.Bytes itself.
func (p Packed) Open() ([]byte, error) { return p.OpenInto(nil) }

// OpenInto is Open that decompresses into buf's capacity where it suffices.
// Elsewhere it is left to the decoder to make a buffer: one with room behind the
// content, where it need not watch the end at each step.
func (p Packed) OpenInto(buf []byte) ([]byte, error) {
	if p.Size < 0 || p.Size > MaxSize {
		return nil, p.corrupt("plain size %d is beyond %d bytes", p.Size, MaxSize)
	}
	data := p.Bytes
	switch p.Codec {
	case Plain:
	case Zstd:
		dec := decoders.Get().(*zstd.Decoder)
		defer decoders.Put(dec)
		var err error
		if data, err = dec.DecodeAll(p.Bytes, buf[:0]); err != nil {
			return nil, p.corrupt("%v", err)
		}
	default:
		return nil, p.corrupt("unknown codec %d", p.Codec)
	}
	if len(data) != p.Size {
		return nil, p.corrupt("content is %d bytes, header says %d", len(data), p.Size)
	}
	if err := Verify(p.ID, data); err != nil {
		return nil, err
	}
	return data, nil
}

// AppendTo appends the encoded form of p: codec, plain size, bytes. The ID is
// not part of it.
func (p Packed) AppendTo(b []byte) []byte { return append(p.AppendHeader(b), p.Bytes...) }

// AppendHeader is AppendTo without the bytes.
func (p Packed) AppendHeader(b []byte) []byte {
	b = append(b, byte(p.Codec))
	return binary.LittleEndian.AppendUint32(b, uint32(p.Size))
}

// ParsePacked reads what AppendTo wrote. Bytes aliases b. The content is not
// verified: Open does that.
func ParsePacked(id ID, b []byte) (Packed, error) {
	p := Packed{ID: id}
	if len(b) < HeaderSize {
		return p, p.corrupt("%d bytes are too few for a header", len(b))
	}
	size := binary.LittleEndian.Uint32(b[1:])
	if size > MaxSize || len(b) > HeaderSize+int(size) {
		return p, p.corrupt("%d bytes encoded for a plain size of %d", len(b)-HeaderSize, size)
	}
	p.Codec, p.Size, p.Bytes = Codec(b[0]), int(size), b[HeaderSize:]
	return p, nil
}

func (p Packed) corrupt(format string, args ...any) error {
	return &CorruptError{ID: p.ID, Reason: fmt.Sprintf(format, args...)}
}

// errNoCoder is what a coder that cannot be built would mean; its options are
// constant, so it cannot happen at run time.
var errNoCoder = errors.New("chunk: invalid zstd options")

// A zstd coder keeps tables of some hundred KiB; pooling bounds them by the
// number of goroutines that really run.
var decoders = sync.Pool{New: func() any {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxSize),
		zstd.WithDecoderMaxWindow(MaxSize))
	if err != nil {
		panic(errors.Join(errNoCoder, err))
	}
	return dec
}}
