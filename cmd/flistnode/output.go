package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// printJSON prints v as one indented JSON document.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// lines calls each with a function that prints one value: as a line of JSON
// (NDJSON) with --json, else through human. Output is buffered and flushed
// before lines returns, also after an error.
func lines[T any](a *app, human func(w io.Writer, v T) error, each func(print func(T) error) error) error {
	w := bufio.NewWriterSize(a.stdout, 64<<10)
	print := func(v T) error { return human(w, v) }
	if a.json {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		print = func(v T) error { return enc.Encode(v) }
	}
	err := each(print)
	if flushErr := w.Flush(); err == nil {
		err = flushErr
	}
	return err
}

// table is aligned columns on stdout. Row errors surface in flush.
type table struct{ w *tabwriter.Writer }

func (a *app) table(header ...string) *table {
	t := &table{w: tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)}
	if len(header) > 0 {
		cells := make([]any, len(header))
		for i, h := range header {
			cells[i] = h
		}
		t.row(cells...)
	}
	return t
}

// row adds a line; the cells must be free of tabs and newlines, as quote
// leaves them.
func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, c)
	}
	fmt.Fprintln(t.w)
}

func (t *table) flush() error { return t.w.Flush() }

// size shows a number of bytes in IEC units.
func size[N int | int64 | uint64 | uint32](n N) string {
	if n < 0 {
		return "unknown"
	}
	return humanize.IBytes(uint64(n))
}

// count shows a number with separators.
func count[N int | int64 | uint64 | uint32](n N) string { return humanize.Comma(int64(n)) }

// share shows part of whole as a percentage; of nothing, all is there.
func share[N int | int64 | uint64](part, whole N) string {
	if whole <= 0 || part == whole {
		return "100 %"
	}
	// Cut, not rounded: what is not whole must not read 100.
	return fmt.Sprintf("%.1f %%", math.Floor(1000*float64(part)/float64(whole))/10)
}

// duration shows d at a sensible precision.
func duration(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	default:
		return d.Round(10 * time.Microsecond).String()
	}
}

// seconds shows a number of seconds at a sensible precision.
func seconds(s float64) string { return duration(time.Duration(s * float64(time.Second))) }

// when shows a moment of the node's life in local time.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// dash shows a name that may be missing.
func dash(name string) string {
	if name == "" {
		return "-"
	}
	return quote(name)
}

// orEmpty makes a list that is never null in JSON.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
