package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// progressInterval is the time between two lines of progress where there is
// no terminal.
const progressInterval = 5 * time.Second

// meter shows how far a long operation is: a bar on stderr if that is a
// terminal, a line every few seconds with -v, else nothing. It is for one
// goroutine.
type meter struct {
	what string
	bar  *progressbar.ProgressBar
	w    io.Writer // of the lines; nil for none
	next time.Time // when the next line is due
}

// meter returns the meter of an operation on bytes, named by a participle
// ("packing").
func (a *app) meter(what string) *meter {
	if f, ok := a.stderr.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		return &meter{what: what, bar: progressbar.NewOptions64(-1,
			progressbar.OptionSetWriter(f),
			progressbar.OptionSetDescription(what),
			progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionShowTotalBytes(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetWidth(30),
			progressbar.OptionSpinnerType(14),
			progressbar.OptionSetSpinnerChangeInterval(0), // no goroutine of its own
		)}
	}
	m := &meter{what: what, next: time.Now().Add(progressInterval)}
	if a.verbose > 0 {
		m.w = a.stderr
	}
	return m
}

// update says that done of total bytes are through; total is 0 while it is
// not known. note is what else is worth telling.
func (m *meter) update(done, total uint64, note string) {
	if m.bar != nil {
		if total > 0 {
			done = min(done, total)
		}
		if total > 0 && m.bar.GetMax64() != int64(total) {
			m.bar.ChangeMax64(int64(total))
		}
		m.bar.Describe(m.what + " " + note)
		// An error here is one of drawing; the work goes on without.
		_ = m.bar.Set64(int64(done))
		return
	}
	now := time.Now()
	if m.w == nil || now.Before(m.next) {
		return
	}
	m.next = now.Add(progressInterval)
	if total > 0 {
		fmt.Fprintf(m.w, "%s: %s of %s (%s), %s\n", m.what, size(done), size(total), share(done, total), note)
		return
	}
	fmt.Fprintf(m.w, "%s: %s, %s\n", m.what, size(done), note)
}

// done takes the bar off the terminal.
func (m *meter) done() {
	if m.bar != nil {
		_ = m.bar.Exit()
		_ = m.bar.Clear()
	}
}
