package exchange

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/google/go-cmp/cmp"
)

// The worked example of docs/protocol.md: one frame of each type.
func exampleFrames() map[string][]byte {
	hello := chunk.Pack([]byte("hello\n"))
	return map[string][]byte{
		"want":    want{class: Readahead, first: 7, ids: []chunk.ID{hello.ID}}.appendTo(nil),
		"cancel":  appendIDs(nil, frameCancel, 7, 8),
		"chunk":   append(appendChunkHeader(nil, 7, hello), hello.Bytes...),
		"missing": appendIDs(nil, frameMissing, 8),
		"refused": appendRefused(nil, refusedBusy, 9),
	}
}

func TestFramesAreAsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	flat := strings.Join(strings.Fields(string(doc)), "")
	for name, frame := range exampleFrames() {
		if !strings.Contains(flat, hex.EncodeToString(frame)) {
			t.Errorf("docs/protocol.md does not show the example %s frame %x", name, frame)
		}
	}
}

func TestFramesRoundTrip(t *testing.T) {
	ids := []chunk.ID{chunk.Sum([]byte("a")), chunk.Sum([]byte("b"))}
	for _, w := range []want{
		{Waiting, 0, ids[:1]}, {Replication, 1 << 31, ids}, {Prefetch, 5, make([]chunk.ID, maxWant)},
	} {
		h, payload := readFrame(t, w.appendTo(nil))
		got, err := parseWant(payload)
		if err != nil || h.typ != frameWant {
			t.Fatalf("type %d, %v", h.typ, err)
		}
		if diff := cmp.Diff(w, got, cmp.AllowUnexported(want{})); diff != "" {
			t.Error(diff)
		}
	}
	_, payload := readFrame(t, appendRefused(nil, refusedCancelled, 3, 4))
	code, reqs, err := parseRefused(payload)
	if err != nil || code != refusedCancelled || !cmp.Equal(reqs, []uint32{3, 4}) {
		t.Errorf("refused: %d, %v, %v", code, reqs, err)
	}
}

func readFrame(t *testing.T, b []byte) (header, []byte) {
	t.Helper()
	h, err := readHeader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if h.size != len(b)-headerSize {
		t.Fatalf("header says %d bytes, frame has %d", h.size, len(b)-headerSize)
	}
	return h, b[headerSize:]
}

func TestReadHeaderRefusesWhatIsOutOfBounds(t *testing.T) {
	for name, b := range map[string][]byte{
		"want too long":          appendHeader(nil, frameWant, maxWantSize+1),
		"want of nothing":        appendHeader(nil, frameWant, wantFixed),
		"chunk too long":         appendHeader(nil, frameChunk, maxChunkSize+1),
		"chunk too short":        appendHeader(nil, frameChunk, chunkFixed-1),
		"too many cancelled":     appendHeader(nil, frameCancel, (maxIDs+1)*idSize),
		"none missing":           appendHeader(nil, frameMissing, 0),
		"refused without reason": appendHeader(nil, frameRefused, idSize),
		"unknown, too long":      appendHeader(nil, 0x10, maxFrameSize+1),
		"all ones":               bytes.Repeat([]byte{0xff}, headerSize),
	} {
		var bad *ProtocolError
		if h, err := readHeader(bytes.NewReader(b)); !errors.As(err, &bad) {
			t.Errorf("%s: header %+v, %v; want a ProtocolError", name, h, err)
		}
	}
	if _, err := readHeader(bytes.NewReader(appendHeader(nil, 0x10, maxFrameSize))); err != nil {
		t.Errorf("unknown frame within bounds: %v", err)
	}
	if _, err := readHeader(bytes.NewReader([]byte{1, 2})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut header: %v", err)
	}
}

func FuzzFrames(f *testing.F) {
	for _, frame := range exampleFrames() {
		f.Add(frame)
	}
	f.Add(appendHeader(nil, 0x10, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHeader(bytes.NewReader(b))
		if err != nil || len(b)-headerSize < h.size {
			return
		}
		b = b[:headerSize+h.size]
		payload := b[headerSize:]
		var again []byte
		switch h.typ {
		case frameWant:
			w, err := parseWant(payload)
			if err != nil || payload[0] > byte(Replication) {
				return
			}
			again = w.appendTo(nil)
		case frameCancel, frameMissing:
			ids, err := parseIDs(payload)
			if err != nil {
				return
			}
			again = appendIDs(nil, h.typ, ids...)
		case frameRefused:
			code, ids, err := parseRefused(payload)
			if err != nil || byte(code) != payload[0] {
				return
			}
			again = appendRefused(nil, code, ids...)
		case frameChunk:
			p, err := chunk.ParsePacked(chunk.ID{}, payload[idSize:])
			if err != nil {
				return
			}
			again = append(appendChunkHeader(nil, uint32(payload[0])|uint32(payload[1])<<8|uint32(payload[2])<<16|uint32(payload[3])<<24, p), p.Bytes...)
		default:
			return
		}
		if !bytes.Equal(again, b) {
			t.Errorf("frame %x encodes again to %x", b, again)
		}
	})
}
