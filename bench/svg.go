package bench

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"

	"github.com/flistnode/flistnode/testnet"
)

// The picture, in its own units.
const (
	plotWidth, plotHeight = 800.0, 420.0
	plotLeft, plotTop     = 60.0, 50.0
	plotRight, plotBottom = 190.0, 45.0
)

var plotColors = []string{"#1b6ca8", "#c8553d", "#4c956c", "#7d5ba6"}

// plotCrowds draws how much each node had at each time: a colour a program, a
// line a node, and the floor as a dashed line.
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
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="white"/><text x="%g" y="24" font-size="14">%s</text>`+"\n",
		plotWidth, plotHeight, plotLeft, html.EscapeString(title))
	for i := range 5 {
		part := float64(i) / 4
		fmt.Fprintf(&b, `<line x1="%g" y1="%.1f" x2="%g" y2="%.1f" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%.0f %%</text>`+"\n",
			plotLeft, y(part), plotWidth-plotRight, y(part), plotLeft-6, y(part)+4, 100*part)
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%.3g s</text>`+"\n", x(longest*part), plotHeight-plotBottom+18, longest*part)
	}
	fmt.Fprintf(&b, `<line x1="%.1f" y1="%g" x2="%.1f" y2="%g" stroke="#444" stroke-dasharray="4 3"/><text x="%.1f" y="%g" text-anchor="middle">floor</text>`+"\n",
		x(floor), plotTop, x(floor), plotHeight-plotBottom, x(floor), plotTop-5)
	for i, c := range crowds {
		color := plotColors[i%len(plotColors)]
		for _, curve := range c.curves {
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-opacity="0.7" points="%s"/>`+"\n", color, points(curve, x, y))
		}
		top := plotTop + 20*float64(i)
		fmt.Fprintf(&b, `<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="%s" stroke-width="3"/><text x="%g" y="%g">%s</text>`+"\n",
			plotWidth-plotRight+12, top, plotWidth-plotRight+32, top, color, plotWidth-plotRight+38, top+4, html.EscapeString(c.name))
	}
	b.WriteString("</svg>\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("bench: write plot: %w", err)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("bench: write plot: %w", err)
	}
	return nil
}

func points(curve []testnet.Point, x, y func(float64) float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%.1f,%.1f", x(0), y(0))
	for _, p := range curve {
		fmt.Fprintf(&b, " %.1f,%.1f", x(p.Seconds), y(p.Part))
	}
	return b.String()
}
