package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/flistnode/flistnode/flist/chunk"
)

// frameType is the first byte of a frame.
type frameType uint8

// The frame types of version 1. 0x10 to 0x1f are kept for have-bitmaps. A type
// that is not listed is skipped by whoever receives it.
const (
	frameWant    frameType = 0x01 // class, first request ID, chunk IDs
	frameCancel  frameType = 0x02 // request IDs
	frameChunk   frameType = 0x03 // request ID, packed chunk
	frameMissing frameType = 0x04 // request IDs
	frameRefused frameType = 0x05 // code, request IDs
)

// refusal is the code in a refused frame.
type refusal uint8

const (
	refusedBusy      refusal = 1 // too much to do, ask again later
	refusedError     refusal = 2 // the store could not read the chunk
	refusedCancelled refusal = 3 // the answer to a cancelled request
)

// Bounds of what is read, in bytes of payload unless said otherwise.
const (
	headerSize = 5 // type, payload length

	idSize        = 4   // a request ID
	maxWant       = 256 // chunk IDs in a want frame
	maxIDs        = 1024
	wantFixed     = 1 + idSize
	maxWantSize   = wantFixed + maxWant*len(chunk.ID{})
	chunkFixed    = idSize + chunk.HeaderSize
	maxChunkSize  = idSize + chunk.MaxPackedSize
	maxFrameSize  = maxChunkSize // of any frame, known or not
	maxSmallFrame = maxWantSize  // of every frame but chunk
)

// header is the fixed start of every frame.
type header struct {
	typ  frameType
	size int // bytes of payload
}

// appendHeader appends the encoding of h: type, payload length as four bytes
// little endian.
func appendHeader(b []byte, typ frameType, size int) []byte {
	return binary.LittleEndian.AppendUint32(append(b, byte(typ)), uint32(size))
}

// readHeader reads a frame's header and refuses a length that its type does
// not allow. io.EOF means that the stream ended between two frames.
func readHeader(r io.Reader) (header, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return header{}, fmt.Errorf("stream ends inside a frame: %w", err)
		}
		return header{}, err
	}
	h := header{typ: frameType(b[0])}
	size := binary.LittleEndian.Uint32(b[1:])
	low, high := 0, maxFrameSize
	switch h.typ {
	case frameWant:
		low, high = wantFixed+len(chunk.ID{}), maxWantSize
	case frameCancel, frameMissing:
		low, high = idSize, maxIDs*idSize
	case frameRefused:
		low, high = 1+idSize, 1+maxIDs*idSize
	case frameChunk:
		low, high = chunkFixed, maxChunkSize
	}
	if uint64(size) < uint64(low) || uint64(size) > uint64(high) {
		return h, badLength(b[0], uint64(size), low, high)
	}
	h.size = int(size)
	return h, nil
}

// want asks for chunks: the i-th of ids is request first+i.
type want struct {
	class Class
	first uint32
	ids   []chunk.ID
}

func (w want) appendTo(b []byte) []byte {
	b = appendHeader(b, frameWant, wantFixed+len(w.ids)*len(chunk.ID{}))
	b = append(b, byte(w.class))
	b = binary.LittleEndian.AppendUint32(b, w.first)
	for i := range w.ids {
		b = append(b, w.ids[i][:]...)
	}
	return b
}

// parseWant reads the payload of a want frame. A class this version does not
// know counts as the least urgent.
func parseWant(p []byte) (want, error) {
	const n = len(chunk.ID{})
	if len(p) < wantFixed+n || (len(p)-wantFixed)%n != 0 {
		return want{}, violation("want frame of %d bytes holds no whole number of chunk IDs", len(p))
	}
	w := want{class: min(Class(p[0]), Replication), first: binary.LittleEndian.Uint32(p[1:])}
	w.ids = make([]chunk.ID, (len(p)-wantFixed)/n)
	for i := range w.ids {
		copy(w.ids[i][:], p[wantFixed+i*n:])
	}
	if w.first+uint32(len(w.ids)) < w.first {
		return want{}, violation("request IDs of a want frame wrap around")
	}
	return w, nil
}

// appendIDs appends a cancel or missing frame.
func appendIDs(b []byte, typ frameType, ids ...uint32) []byte {
	b = appendHeader(b, typ, len(ids)*idSize)
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}

// parseIDs reads the request IDs of a cancel or missing frame.
func parseIDs(p []byte) ([]uint32, error) {
	if len(p) == 0 || len(p)%idSize != 0 {
		return nil, violation("%d bytes hold no whole number of request IDs", len(p))
	}
	ids := make([]uint32, len(p)/idSize)
	for i := range ids {
		ids[i] = binary.LittleEndian.Uint32(p[i*idSize:])
	}
	return ids, nil
}

func appendRefused(b []byte, code refusal, ids ...uint32) []byte {
	b = appendHeader(b, frameRefused, 1+len(ids)*idSize)
	b = append(b, byte(code))
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}

// parseRefused reads the payload of a refused frame. A code this version does
// not know counts as an error of the peer.
func parseRefused(p []byte) (refusal, []uint32, error) {
	if len(p) < 1 {
		return 0, nil, violation("refused frame is empty")
	}
	ids, err := parseIDs(p[1:])
	code := refusal(p[0])
	if code != refusedBusy && code != refusedCancelled {
		code = refusedError
	}
	return code, ids, err
}

// appendChunkHeader appends everything of a chunk frame but the chunk's bytes,
// which follow it unchanged.
func appendChunkHeader(b []byte, id uint32, p chunk.Packed) []byte {
	b = appendHeader(b, frameChunk, chunkFixed+len(p.Bytes))
	b = binary.LittleEndian.AppendUint32(b, id)
	return p.AppendHeader(b)
}
