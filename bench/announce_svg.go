package bench

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// The scales of the picture: chunks held and records sent, both logarithmic.
const (
	fewestChunks, mostChunks   = 1e3, 1e6
	fewestRecords, mostRecords = 1.0, 1e8
)

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
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="white"/><text x="%g" y="24" font-size="14">%s</text>`+"\n",
		plotWidth, plotHeight, plotLeft, html.EscapeString("Records a node sends to announce all it holds once (every 22 h), by chunks held"))
	for v := fewestRecords; v <= mostRecords; v *= 10 {
		fmt.Fprintf(&b, `<line x1="%g" y1="%.1f" x2="%g" y2="%.1f" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n",
			plotLeft, y(v), plotWidth-plotRight, y(v), plotLeft-6, y(v)+4, short(v))
	}
	for v := fewestChunks; v <= mostChunks; v *= 10 {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%s</text>`+"\n", x(v), plotHeight-plotBottom+18, short(v))
	}
	fmt.Fprintf(&b, `<line x1="%g" y1="%.1f" x2="%g" y2="%.1f" stroke="#444" stroke-dasharray="4 3"/><text x="%g" y="%.1f">bound of auto, %s</text>`+"\n",
		plotLeft, y(recordsBudget), plotWidth-plotRight, y(recordsBudget), plotLeft+6, y(recordsBudget)-5, short(recordsBudget))
	for i, nodes := range announceNodes {
		color := plotColors[i%len(plotColors)]
		drawAnnounce(&b, each, nodes, color, "", x, y)
		drawAnnounce(&b, roots, nodes, color, ` stroke-dasharray="2 4"`, x, y)
		top := plotTop + 20*float64(i)
		drawLegend(&b, top, color, "", fmt.Sprintf("chunks, %d nodes", nodes))
		drawLegend(&b, top+20*float64(len(announceNodes)), color, ` stroke-dasharray="2 4"`, fmt.Sprintf("roots, %d nodes", nodes))
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g">full points: measured</text>`+"\n", plotWidth-plotRight+12, plotTop+20*float64(2*len(announceNodes))+4)
	fmt.Fprintf(&b, `<text x="%g" y="%g">empty points: simulated</text>`+"\n", plotWidth-plotRight+12, plotTop+20*float64(2*len(announceNodes)+1)+4)
	b.WriteString("</svg>\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("bench: write plot: %w", err)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("bench: write plot: %w", err)
	}
	return nil
}

func drawAnnounce(b *strings.Builder, all []announcement, nodes int, color, dash string, x, y func(float64) float64) {
	var line, dots strings.Builder
	for _, a := range all {
		if a.nodes != nodes || a.records == 0 {
			continue
		}
		px, py := x(float64(a.chunks)), y(a.records)
		fmt.Fprintf(&line, "%.1f,%.1f ", px, py)
		fill := "white"
		if a.measured {
			fill = color
		}
		fmt.Fprintf(&dots, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s" stroke="%s"/>`+"\n", px, py, fill, color)
	}
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2"%s points="%s"/>`+"\n%s", color, dash, strings.TrimSpace(line.String()), dots.String())
}

func drawLegend(b *strings.Builder, top float64, color, dash, text string) {
	fmt.Fprintf(b, `<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="%s" stroke-width="3"%s/><text x="%g" y="%g">%s</text>`+"\n",
		plotWidth-plotRight+12, top, plotWidth-plotRight+32, top, color, dash, plotWidth-plotRight+38, top+4, html.EscapeString(text))
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
