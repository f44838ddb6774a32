//go:build !cgo

package chunk

import (
	"errors"
	"sync"

	"github.com/klauspost/compress/zstd"
)

var (
	fastEncoders  = sync.Pool{New: func() any { return newEncoder(zstd.SpeedFastest) }}
	tightEncoders = sync.Pool{New: func() any { return newEncoder(zstd.SpeedBetterCompression) }}
)

// compressFast appends src as a zstd frame to dst, which is empty; nil if it
// cannot.
func compressFast(dst, src []byte) []byte { return compress(dst, src, &fastEncoders) }

func compressTight(dst, src []byte) []byte { return compress(dst, src, &tightEncoders) }

func compress(dst, src []byte, encoders *sync.Pool) []byte {
	enc := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(enc)
	return enc.EncodeAll(src, dst)
}

func newEncoder(level zstd.EncoderLevel) *zstd.Encoder {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level),
		zstd.WithWindowSize(MaxSize), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(errors.Join(errNoCoder, err))
	}
	return enc
}
