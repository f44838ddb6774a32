package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnnouncingIsMeasuredInARealNetwork(t *testing.T) {
	each, roots, err := measureAnnounce(t.Context(), filepath.Join(t.TempDir(), "net"), 3, 300)
	if err != nil {
		t.Fatal(err)
	}
	if each.records != 600 || each.stored != 300 || each.most != 300 || !each.measured || each.bytes < 600*80 {
		t.Errorf("300 chunks among 3 nodes: %+v", each)
	}
	if roots.records != 2 || roots.stored != 1 || roots.chunks != 300 {
		t.Errorf("the root of 300 chunks among 3 nodes: %+v", roots)
	}
}

func TestSimulatedAnnouncingAgreesWithWhatEveryRecordCosts(t *testing.T) {
	like := announcement{nodes: 30, chunks: 10_000, measured: true, records: 200_000, lookups: 600, bytes: 18e6, cpu: 4}
	small := announcement{nodes: 3, chunks: 10_000, measured: true, records: 20_000, lookups: 40, bytes: 1.8e6, cpu: 1}
	a := simulateAnnounce([]announcement{small, like, {nodes: 30, chunks: 1_000_000}}, 300, 2000)
	if a.measured || a.records != 40_000 || a.lookups != 1200 {
		t.Errorf("2000 chunks among 300 nodes: %+v", a)
	}
	if perRecord := a.cpu / (a.records + a.lookups); math.Abs(perRecord*200_600/4-1) > 0.01 {
		t.Errorf("%g s a message, measured were 4 s for 200,600", perRecord)
	}
	if a.most < a.stored || a.most > 4*a.stored {
		t.Errorf("the fullest node stores %g records, the average %g", a.most, a.stored)
	}
	if b := simulateAnnounce([]announcement{small, like}, 3, 1_000_000); b.records != 2_000_000 || b.most != 1_000_000 || math.Abs(b.cpu-100) > 1 {
		t.Errorf("a million chunks among 3 nodes: %+v", b)
	}
}

func TestPlotOfAnnouncingHasALineForEachModeAndNetwork(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "announce.svg")
	var each, roots []announcement
	for _, nodes := range announceNodes {
		for _, chunks := range announceChunks {
			a := announcement{nodes: nodes, chunks: chunks, records: float64(chunks * min(nodes-1, kept)), measured: nodes == 3}
			each, roots = append(each, a), append(roots, announcement{nodes: nodes, chunks: chunks, records: 2})
		}
	}
	if err := plotAnnounce(path, each, roots); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for dec := xml.NewDecoder(strings.NewReader(string(data))); ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, data)
		}
		if e, ok := tok.(xml.StartElement); ok {
			found[e.Name.Local]++
		}
	}
	if found["polyline"] != 2*len(announceNodes) || found["circle"] != len(each)+len(roots) {
		t.Errorf("drawn: %v", found)
	}
}

func TestAutoAnnouncesChunksWhileRecordsAreFew(t *testing.T) {
	for _, tt := range []struct {
		nodes, chunks int
		want          string
	}{{2, 1_000_000, "chunks"}, {3, 100_000, "chunks"}, {3, 1_000_000, "roots"}, {30, 10_000, "chunks"}, {30, 100_000, "roots"}, {300, 75_000, "roots"}} {
		if got := autoMode(tt.nodes, tt.chunks); got != tt.want {
			t.Errorf("%d nodes, %d chunks: %s, want %s", tt.nodes, tt.chunks, got, tt.want)
		}
	}
}

func TestSimulationTakesTheMeasurementMostLikeIt(t *testing.T) {
	measured := []announcement{
		{nodes: 3, chunks: 1000, measured: true}, {nodes: 30, chunks: 1000, measured: true},
		{nodes: 30, chunks: 10_000, measured: true}, {nodes: 30, chunks: 100_000},
	}
	for _, tt := range []struct{ nodes, chunks, likeNodes, likeChunks int }{
		{300, 1000, 30, 1000}, {300, 1_000_000, 30, 10_000}, {300, 100, 30, 1000}, {3, 1_000_000, 3, 1000},
	} {
		like := mostLike(measured, tt.nodes, tt.chunks)
		if like.nodes != tt.likeNodes || like.chunks != tt.likeChunks {
			t.Errorf("%d nodes, %d chunks: like %d nodes, %d chunks", tt.nodes, tt.chunks, like.nodes, like.chunks)
		}
	}
}
