// Package bench measures flistnode end to end, beside other tools in the same
// run, and prints what it measured as a table: the figure, what it is compared
// with, and the ratio. Machines are noisy, so runs of both sides alternate
// and medians are compared.
//
// Benchmarks run one at a time; the package keeps no state.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/flistnode/flistnode/testnet"
)

// Row is one figure and what it is compared with. For all units less is
// better; a ratio below 1 is better than the other.
type Row struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`    // "s", "ms", "MB", "%", "" for copies
	Against string  `json:"against"` // "" if with nothing
	Other   float64 `json:"other"`   // in the same unit
	Ratio   float64 `json:"ratio"`   // Value / Other
}

// Table is the result of one benchmark.
type Table struct {
	Title string `json:"title"`
	Notes string `json:"notes,omitempty"`
	Rows  []Row  `json:"rows"`
}

// add appends a row and computes its ratio.
func (t *Table) add(name string, value float64, unit, against string, other float64) {
	r := Row{Name: name, Value: value, Unit: unit, Against: against, Other: other}
	if other > 0 {
		r.Ratio = value / other
	}
	t.Rows = append(t.Rows, r)
}

// Print writes t as aligned text.
func (t *Table) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n", t.Title)
	if t.Notes != "" {
		fmt.Fprintf(w, "  %s\n", t.Notes)
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "  what\tfigure\tcompared with\tfigure\tratio")
	for _, r := range t.Rows {
		if r.Against == "" {
			fmt.Fprintf(tw, "  %s\t%s %s\t\t\t\n", r.Name, figure(r.Value), r.Unit)
			continue
		}
		fmt.Fprintf(tw, "  %s\t%s %s\t%s\t%s %s\t%s\n", r.Name, figure(r.Value), r.Unit, r.Against, figure(r.Other), r.Unit, ratio(r.Ratio))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// figure writes a number with four digits, or all of its whole ones.
func figure(v float64) string {
	if v >= 1e4 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.4g", v)
}

func ratio(v float64) string {
	if v >= 1e3 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// WriteJSON writes tables as one JSON document.
func WriteJSON(w io.Writer, tables []Table) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(tables)
}

// Options say what is measured and with what.
type Options struct {
	Binary   string // the flistnode executable
	Root     string // a root file system to pack
	Work     string // a directory to work in and keep for later runs; a temporary one if ""
	Runs     int    // counted runs of each side
	Slow     bool   // also compare with tools that take minutes
	Progress func(step string)
	Only     *regexp.Regexp // the cases of Mount to measure, by their names; nil for all

	Nodes         int          // of a swarm, beside the seed
	Rate          testnet.Rate // of the links of a swarm
	SwarmBytes    int64        // of the content a swarm fetches
	TransferBytes int64        // of the content that goes from one node to another
	Plots         string       // directory for pictures; "" for none
}

func (o Options) only(name string) bool { return o.Only == nil || o.Only.MatchString(name) }

// run is one finished process.
type run struct {
	seconds  float64
	anonPeak float64 // MB of anonymous memory of the first process, sampled
	stdout   string
}

// command runs a program to its end.
func command(ctx context.Context, name string, args ...string) (run, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return run{}, fmt.Errorf("bench: %w", err)
	}
	peak := watchMemory(cmd.Process.Pid)
	err := cmd.Wait()
	r := run{seconds: time.Since(began).Seconds(), anonPeak: peak(), stdout: strings.TrimSpace(stdout.String())}
	if err != nil {
		return r, fmt.Errorf("bench: %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return r, nil
}

// brief is what err says in one line, the end of it if that is long.
func brief(err error) string {
	const most = 200
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > most {
		text = "... " + text[len(text)-most:]
	}
	return text
}

// watchMemory samples the anonymous memory of a process until the returned
// function is called, which gives the peak in MB. Mapped files are left out:
// the kernel takes them back when it needs the room.
func watchMemory(pid int) func() float64 { return watch(pid, anonMemory) }

// watch samples a figure of a process until the returned function is called,
// which gives the peak.
func watch(pid int, figure func(pid int) float64) func() float64 {
	stop, result := make(chan struct{}), make(chan float64)
	go func() {
		peak := 0.0
		for {
			peak = max(peak, figure(pid))
			select {
			case <-stop:
				result <- peak
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() float64 {
		close(stop)
		return <-result
	}
}

// anonMemory returns the memory of a process that nothing but swap could take
// over, in MB, 0 if it has ended: what is on its heaps and stacks, and what it
// has in files of a tmpfs.
func anonMemory(pid int) float64 { return resident(pid, "RssAnon:") + resident(pid, "RssShmem:") }

// fileMemory returns the memory of a process that is pages of files, in MB, 0
// if it has ended: its program and what it has mapped.
func fileMemory(pid int) float64 { return resident(pid, "RssFile:") }

// resident returns a field of proc_pid_status(5) in MB.
func resident(pid int, field string) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), field)
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		return 0
	}
	return kib * 1024 / 1e6
}

// median returns the middle of xs, which is not empty.
func median(xs []float64) float64 {
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)/2]
}

// installed reports whether a program can be run here.
func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}
