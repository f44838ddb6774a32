package bench

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/flistnode/flistnode/testnet"
)

// The picture, in its own units.
const (
	plotWidth, plotHeight = 800.0, 420.0
	plotLeft, plotTop     = 70.0, 60.0
	plotRight, plotBottom = 200.0, 60.0
)

var plotColors = []string{"#1b6ca8", "#c8553d", "#4c956c", "#7d5ba6", "#b8860b", "#444444"}

// beginPlot writes the head of a picture with a title, and what its axes show.
func beginPlot(b *strings.Builder, title, across, up string) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(b, `<rect width="%g" height="%g" fill="white"/><text x="%g" y="24" font-size="14">%s</text>`+"\n",
		plotWidth, plotHeight, plotLeft, html.EscapeString(title))
	fmt.Fprintf(b, `<text x="%g" y="%g" text-anchor="middle">%s</text>`+"\n",
		(plotLeft+plotWidth-plotRight)/2, plotHeight-plotBottom+42, html.EscapeString(across))
	middle := (plotTop + plotHeight - plotBottom) / 2
	fmt.Fprintf(b, `<text x="18" y="%g" text-anchor="middle" transform="rotate(-90 18 %g)">%s</text>`+"\n", middle, middle, html.EscapeString(up))
}

// tickUp draws a line across at y with its label, tickAcross one mark below.
func tickUp(b *strings.Builder, y float64, label string) {
	fmt.Fprintf(b, `<line x1="%g" y1="%.1f" x2="%g" y2="%.1f" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n",
		plotLeft, y, plotWidth-plotRight, y, plotLeft-8, y+4, label)
}

func tickAcross(b *strings.Builder, x float64, label string) {
	bottom := plotHeight - plotBottom
	fmt.Fprintf(b, `<line x1="%.1f" y1="%g" x2="%.1f" y2="%g" stroke="#888"/><text x="%.1f" y="%g" text-anchor="middle">%s</text>`+"\n",
		x, bottom, x, bottom+5, x, bottom+20, label)
}

// endPlot ends a picture and writes it to a file.
func endPlot(b *strings.Builder, path string) error {
	b.WriteString("</svg>\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("bench: write plot: %w", err)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("bench: write plot: %w", err)
	}
	return nil
}

// plotCrowds draws how much each node had at each time: a colour a program, a
// line a node, a point where a node had everything, and the floor as a dashed
// line. Of some programs only the points are known.
func plotCrowds(path, title string, floor float64, crowds []crowd) error {
	longest := floor
	for _, c := range crowds {
		longest = max(longest, c.last())
	}
	longest *= 1.02
	x := func(seconds float64) float64 {
		return plotLeft + seconds/longest*(plotWidth-plotLeft-plotRight)
	}
	y := func(part float64) float64 { return plotHeight - plotBottom - part*(plotHeight-plotTop-plotBottom) }
	var b strings.Builder
	beginPlot(&b, title, "seconds since all began", "held by a node")
	for i := range 5 {
		tickUp(&b, y(float64(i)/4), fmt.Sprintf("%d %%", 25*i))
	}
	for s := 0.0; s <= longest; s += tickStep(longest) {
		tickAcross(&b, x(s), fmt.Sprintf("%g s", s))
	}
	fmt.Fprintf(&b, `<line x1="%.1f" y1="%g" x2="%.1f" y2="%g" stroke="#444" stroke-dasharray="4 3"/><text x="%.1f" y="%g" text-anchor="middle">floor %.3g s</text>`+"\n",
		x(floor), plotTop-8, x(floor), plotHeight-plotBottom, max(x(floor), plotLeft+30), plotTop-12, floor)
	for i, c := range crowds {
		color := plotColors[i%len(plotColors)]
		for _, curve := range c.curves {
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-opacity="0.7" points="%s"/>`+"\n", color, points(curve, x, y))
		}
		for _, s := range c.seconds {
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s" fill-opacity="0.7"/>`+"\n", x(s), y(1), color)
		}
		drawLegend(&b, plotTop+20*float64(i), color, 3, "", c.name)
	}
	legendText(&b, plotTop+20*float64(len(crowds))+10, "line: a node on its way")
	legendText(&b, plotTop+20*float64(len(crowds))+28, "point: a node has all")
	return endPlot(&b, path)
}

// tickStep returns 1, 2 or 5 times a power of ten, of which at most eight and
// at least three fit in longest.
func tickStep(longest float64) float64 {
	step := math.Pow(10, math.Floor(math.Log10(longest/8)))
	for _, times := range []float64{1, 2, 5, 10} {
		if longest/(step*times) <= 8 {
			return step * times
		}
	}
	return step * 10
}

func points(curve []testnet.Point, x, y func(float64) float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.1f,%.1f", x(0), y(0))
	for _, p := range curve {
		fmt.Fprintf(&b, " %.1f,%.1f", x(p.Seconds), y(p.Part))
	}
	return b.String()
}

// drawLegend writes what a line of such a kind stands for, right of the plot.
func drawLegend(b *strings.Builder, top float64, color string, width float64, dash, text string) {
	fmt.Fprintf(b, `<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="%s" stroke-width="%g"%s/><text x="%g" y="%g">%s</text>`+"\n",
		plotWidth-plotRight+16, top, plotWidth-plotRight+40, top, color, width, dash, plotWidth-plotRight+48, top+4, html.EscapeString(text))
}

func legendText(b *strings.Builder, top float64, text string) {
	fmt.Fprintf(b, `<text x="%g" y="%g" fill="#444">%s</text>`+"\n", plotWidth-plotRight+16, top+4, html.EscapeString(text))
}
