//go:build !cgo

package chunk

import (
	"sync"

	"github.com/klauspost/compress/zstd"
)

var fastEncoders = sync.Pool{New: func() any { return newEncoder(zstd.SpeedFastest) }}

// compressFast appends src as a zstd frame to dst, which is empty; nil if it
// cannot.
func compressFast(dst, src []byte) []byte {
	enc := fastEncoders.Get().(*zstd.Encoder)
	defer fastEncoders.Put(enc)
	return enc.EncodeAll(src, dst)
}
