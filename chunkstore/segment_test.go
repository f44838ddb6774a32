package chunkstore

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
)

var discard = slog.New(slog.DiscardHandler)

func openSegmentsT(t *testing.T, dir string, limit int64) *segments {
	t.Helper()
	g, err := openSegments(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func wantRecord(t *testing.T, g *segments, data []byte, at place) {
	t.Helper()
	p, err := g.read(chunk.Sum(data), at, true)
	if err != nil {
		t.Error(err)
		return
	}
	if got, err := p.Open(); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(data))
	}
}

func TestRecordsComeBackFromTheirPlaces(t *testing.T) {
	dir := t.TempDir()
	g := openSegmentsT(t, dir, 1<<20)
	var all [][]byte
	var places []place
	for round := range 6 { // the third has more records than one system call takes
		var ps []chunk.Packed
		for i := range []int{1, 0, 2*maxIOVectors + 3, 5, 1, 40}[round] {
			data := append(randomBytes(uint64(i), 1+i*i%5000), byte(round))
			if i%5 == 4 {
				data = append(textBytes(i%9000), byte(round), byte(i))
			}
			all, ps = append(all, data), append(ps, chunk.Pack(data))
		}
		some, err := g.append(ps)
		if err != nil || len(some) != len(ps) {
			t.Fatalf("%d places for %d chunks, %v", len(some), len(ps), err)
		}
		places = append(places, some...)
		if round == 3 { // and on at the end of what is there
			if err := g.close(); err != nil {
				t.Fatal(err)
			}
			g = openSegmentsT(t, dir, 1<<20)
		}
	}
	for i, data := range all {
		wantRecord(t, g, data, places[i])
		if i > 0 {
			if _, err := g.read(chunk.Sum(all[i-1]), places[i], true); err == nil {
				t.Errorf("record %d was read as %d", i, i-1)
			}
		}
	}
	if last := places[len(places)-1].segment; last < 3 {
		t.Errorf("%d segments of 1 MiB, want several", last)
	}
}

// Bytes at the end that the index does not know are what a killed process leaves.
func TestWhatAKilledProcessLeavesIsPassedOver(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{})
	putT(t, s, textBytes(5000))
	closeT(t, s)
	f, err := os.OpenFile(filepath.Join(dir, "chunks", "00000001.seg"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(randomBytes(1, 12_345)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s = openT(t, dir, Options{})
	putT(t, s, randomBytes(2, 5000))
	wantHeld(t, s, randomBytes(2, 5000))
	wantHeld(t, s, textBytes(5000))
}

func TestAppendToAFullDiskLeavesNothing(t *testing.T) {
	disk := smallDisk(t, "size=4m")
	g := openSegmentsT(t, disk, 0)
	hog := filepath.Join(disk, "hog")
	if err := os.WriteFile(hog, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	first := randomBytes(1, 1<<20)
	places, err := g.append([]chunk.Packed{chunk.Pack(first)})
	if err != nil {
		t.Fatal(err)
	}
	var tooMuch []chunk.Packed
	for i := range uint64(8) {
		tooMuch = append(tooMuch, chunk.Pack(randomBytes(2+i, 256<<10)))
	}
	if _, err := g.append(tooMuch); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append to a full disk: %v", err)
	}
	info, err := os.Stat(g.path(1))
	if err != nil || info.Size() != places[0].recordBytes() {
		t.Errorf("the segment has %d bytes, %v; want %d", info.Size(), err, places[0].recordBytes())
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	more, err := g.append(tooMuch[:4])
	if err != nil {
		t.Fatal(err)
	}
	wantRecord(t, g, first, places[0])
	wantRecord(t, g, randomBytes(5, 256<<10), more[3])
}

func TestOpenSegmentsAreBoundedAndEachIsReadToItsEnd(t *testing.T) {
	g := openSegmentsT(t, t.TempDir(), 1)
	var places []place
	for i := range maxOpenSegments + 5 {
		at, err := g.append([]chunk.Packed{chunk.Pack([]byte{byte(i)})})
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, at...)
	}
	used, err := g.use(1)
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range places {
		wantRecord(t, g, []byte{byte(i)}, at)
		if len(g.open) > maxOpenSegments {
			t.Fatalf("%d segments are open", len(g.open))
		}
	}
	if err := g.remove(1); err != nil {
		t.Fatal(err)
	}
	if _, err := used.ReadAt(make([]byte, 1), 0); err != nil {
		t.Errorf("a segment was closed while it was read: %v", err)
	}
	g.release(used)
	if _, err := used.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("a segment nobody uses any more was not closed")
	}
	if _, err := g.read(chunk.Sum([]byte{0}), places[0], true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read from a segment that was removed: %v", err)
	}
}

// A Compact that comes between the two halves of a put must not take away
// what the first has written.
func TestCompactWaitsForPutsUnderWay(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	data := randomBytes(1, 5000)
	ps := []chunk.Packed{chunk.Pack(data)}
	s.writes.RLock()
	places, err := s.segments.append(ps)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Compact(t.Context()) }()
	sealed := func() bool {
		s.segments.appending.Lock()
		defer s.segments.appending.Unlock()
		return s.segments.newest == nil
	}
	for !sealed() {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if err := s.setPlaces(ps, places); err != nil {
		t.Fatal(err)
	}
	s.writes.RUnlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantHeld(t, s, data)
}

// Who has looked into the index before Compact moved a chunk finds it all the same.
func TestReadersFindWhatCompactMoved(t *testing.T) {
	s := openT(t, t.TempDir(), Options{segmentBytes: 1 << 20})
	for i := range 40 {
		putT(t, s, randomBytes(uint64(i), 50_000))
	}
	for i := range 40 {
		if i%8 != 0 {
			if err := s.Delete(t.Context(), chunk.Sum(randomBytes(uint64(i), 50_000))); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := chunk.Sum(randomBytes(0, 50_000))
	before, err := s.find(kept)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := s.find(kept)
	if err != nil || after == before {
		t.Errorf("moved from %v to %v, %v", before, after, err)
	}
	if _, err := s.segments.read(kept, before, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old segment is still there: %v", err)
	}
	for i := 0; i < 40; i += 8 {
		wantHeld(t, s, randomBytes(uint64(i), 50_000))
	}
}

func TestCompactDropsWhatItFindsDamaged(t *testing.T) {
	dir := t.TempDir()
	var deleted []chunk.ID
	s := openT(t, dir, Options{segmentBytes: 1 << 20, OnDelete: func(id chunk.ID) { deleted = append(deleted, id) }})
	for i := range 40 {
		putT(t, s, randomBytes(uint64(i), 50_000))
	}
	for i := 2; i < 40; i++ {
		if err := s.Delete(t.Context(), chunk.Sum(randomBytes(uint64(i), 50_000))); err != nil {
			t.Fatal(err)
		}
	}
	deleted = nil
	damage(t, dir, randomBytes(1, 50_000), flip(100))
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	bad := chunk.Sum(randomBytes(1, 50_000))
	if held, err := s.Has(t.Context(), bad); held || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
	if len(deleted) != 1 || deleted[0] != bad {
		t.Errorf("OnDelete told of %v", deleted)
	}
	wantHeld(t, s, randomBytes(0, 50_000))
}
