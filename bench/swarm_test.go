package bench

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

func TestPlotIsWellFormed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "plot.svg")
	crowds := []crowd{
		{name: "a & b", seconds: []float64{1, 2}, curves: [][]testnet.Point{{{Seconds: 0.5, Part: 0.4}, {Seconds: 1, Part: 1}}, {{Seconds: 2, Part: 1}}}},
		{name: "<other>", seconds: []float64{3}},
	}
	if err := plotCrowds(path, "1 < 2", 0.9, crowds); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for dec := xml.NewDecoder(strings.NewReader(string(data))); ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, data)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
		}
	}
	if lines != 2 {
		t.Errorf("%d lines for 2 nodes with curves", lines)
	}
}

func TestTorrentNamesEveryPiece(t *testing.T) {
	dir := t.TempDir()
	if err := testnet.MakeContent(filepath.Join(dir, "c"), ariaPiece*2+1, 1<<30, 1); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "t")
	if err := writeTorrent(path, filepath.Join(dir, "c", "file-0000"), "http://x/announce"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("d8:announce17:http://x/announce4:infod6:lengthi%de4:name9:file-000012:piece lengthi%de6:pieces60:", ariaPiece*2+1, ariaPiece)
	if !strings.HasPrefix(string(got), head) || !strings.HasSuffix(string(got), "ee") || len(got) != len(head)+60+2 {
		t.Errorf("torrent is %q", got)
	}
}

func TestTrackerTellsPeersOfEachOther(t *testing.T) {
	tr := &tracker{}
	ask := func(addr string) string {
		r := httptest.NewRequest(http.MethodGet, "/announce?info_hash=x", nil)
		r.RemoteAddr = addr + ":40000"
		w := httptest.NewRecorder()
		tr.ServeHTTP(w, r)
		return w.Body.String()
	}
	if got := ask("10.77.1.11"); !strings.HasSuffix(got, "5:peers0:e") {
		t.Errorf("the first peer is told %q", got)
	}
	if got := ask("10.77.1.12"); !strings.HasSuffix(got, "5:peers6:\x0a\x4d\x01\x0b\x1a\xe1e") {
		t.Errorf("the second peer is told %q", got)
	}
	if got := ask("10.77.1.11"); !strings.HasSuffix(got, "5:peers6:\x0a\x4d\x01\x0c\x1a\xe1e") {
		t.Errorf("the first peer is then told %q", got)
	}
}

func TestOtherProgramsOfSwarmBringEverything(t *testing.T) {
	if err := fabric.Available(); err != nil {
		t.Skip("no test network here: ", err)
	}
	opts := Options{Nodes: 2, Rate: 200e6, SwarmBytes: 2 << 20, Progress: func(string) {}}
	dir, err := os.MkdirTemp("", "flistnode-bench-") // the fabric's mark of what may be removed
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	others, failed, err := swarmOthers(context.WithoutCancel(t.Context()), opts, dir)
	if err != nil || len(failed) > 0 {
		t.Fatal(err, failed)
	}
	for _, o := range others {
		if len(o.seconds) != 2 || o.linked < 2<<20 {
			t.Errorf("%s: %d nodes, %d bytes sent by the seed", o.name, len(o.seconds), o.linked)
		}
	}
}
