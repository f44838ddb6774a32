package bench

import (
	"fmt"
	"math"
	"strings"
)

// The scales of the picture: chunks held and records sent, both logarithmic.
const (
	fewestChunks, mostChunks   = 1e3, 1e6
	fewestRecords, mostRecords = 1.0, 1e8
)

// announceLines are how the networks are drawn: where lines lie on one another, the
// wide one shows below the others.
var announceLines = map[int]struct {
	color         string
	width, radius float64
}{3: {"#1b6ca8", 2, 4}, 30: {"#f0a58f", 8, 6.5}, 300: {"#2f6d4c", 2, 3.5}}

const dashed = ` stroke-dasharray="2 4"`

// plotAnnounce draws how many records a node sends when it announces everything
// once: a colour a size of network, a line for each mode, full points for what
// was measured, and the bound of the mode "auto".
func plotAnnounce(path string, each, roots []announcement) error {
	x := func(chunks float64) float64 {
		return plotLeft + math.Log(chunks/fewestChunks)/math.Log(mostChunks/fewestChunks)*(plotWidth-plotLeft-plotRight)
	}
	y := func(records float64) float64 {
		part := math.Log(records/fewestRecords) / math.Log(mostRecords/fewestRecords)
		return plotHeight - plotBottom - part*(plotHeight-plotTop-plotBottom)
	}
	var b strings.Builder
	beginPlot(&b, "Records a node sends to announce all it holds once (every 22 h)", "chunks held", "records sent")
	for v := fewestRecords; v <= mostRecords; v *= 10 {
		tickUp(&b, y(v), short(v))
	}
	for v := fewestChunks; v <= mostChunks; v *= 10 {
		tickAcross(&b, x(v), short(v))
	}
	fmt.Fprintf(&b, `<line x1="%g" y1="%.1f" x2="%g" y2="%.1f" stroke="#444" stroke-dasharray="4 3"/><text x="%g" y="%.1f">bound of auto, %s</text>`+"\n",
		plotLeft, y(recordsBudget), plotWidth-plotRight, y(recordsBudget), plotLeft+6, y(recordsBudget)-5, short(recordsBudget))
	for _, nodes := range []int{30, 300, 3} { // the wide line first
		drawAnnounce(&b, each, nodes, "", x, y)
		drawAnnounce(&b, roots, nodes, dashed, x, y)
	}
	for i, nodes := range announceNodes {
		top, look := plotTop+20*float64(i), announceLines[nodes]
		drawLegend(&b, top, look.color, look.width, "", fmt.Sprintf("chunks, %d nodes", nodes))
		drawLegend(&b, top+20*float64(len(announceNodes)), look.color, look.width, dashed, fmt.Sprintf("roots, %d nodes", nodes))
	}
	top := plotTop + 20*float64(2*len(announceNodes)) + 10
	for i, text := range []string{"full point: measured", "empty point: simulated", "30 and 300 nodes: equal,", "a record goes to 20 nodes"} {
		legendText(&b, top+18*float64(i), text)
	}
	return endPlot(&b, path)
}

func drawAnnounce(b *strings.Builder, all []announcement, nodes int, dash string, x, y func(float64) float64) {
	look := announceLines[nodes]
	var line, dots strings.Builder
	for _, a := range all {
		if a.nodes != nodes || a.records == 0 {
			continue
		}
		px, py := x(float64(a.chunks)), y(a.records)
		fmt.Fprintf(&line, "%.1f,%.1f ", px, py)
		fill := "white"
		if a.measured {
			fill = look.color
		}
		fmt.Fprintf(&dots, `<circle cx="%.1f" cy="%.1f" r="%g" fill="%s" stroke="%s"/>`+"\n", px, py, look.radius, fill, look.color)
	}
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="%g"%s points="%s"/>`+"\n%s", look.color, look.width, dash, strings.TrimSpace(line.String()), dots.String())
}

// short writes a number of thousands or millions.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%gk", v/1e3)
	}
	return fmt.Sprintf("%g", v)
}
