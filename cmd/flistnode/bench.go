package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/bench"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

// benchmarks are the tables that can be made, in the order in which "all"
// makes them.
var benchmarks = []struct {
	name, short string
	run         func(context.Context, bench.Options) (bench.Table, error)
}{
	{"load", "load an flist of a million entries from the store, mount and list it", bench.Load},
	{"image", "pack and unpack a root file system, weigh its flist", bench.Image},
	{"mount", "read a local image through a mount, warm and cold", bench.Mount},
	{"memory", "mount an flist of a million entries and read it", bench.Memory},
	{"coldstart", "start programs from an image that is elsewhere, over slow links", bench.ColdStart},
	{"firstread", "read 4 KiB of an image that is at another site, beside round trips", bench.FirstRead},
	{"transfer", "fetch from one node over loopback, beside HTTP, desync and ipfs", bench.Transfer},
	{"announce", "announce chunks or only flists, look them up among a million", bench.Announce},
	{"swarm", "many nodes fetch at once over slow links, beside HTTP, desync, BitTorrent and ipfs", bench.Swarm},
}

func newBench(a *app) *cobra.Command {
	opts := bench.Options{Progress: func(step string) { fmt.Fprintln(a.stderr, step+" ...") }}
	var out, rate, only string
	var bytes bytesValue
	cmd := &cobra.Command{
		Use:   "bench load|image|mount|memory|coldstart|firstread|transfer|announce|swarm|all",
		Short: "Measure, beside other tools in the same run",
		Long: `Measure this program beside other tools and bounds, in the same run and in turn,
and print tables: the figure, what it is compared with, the ratio. Everything is
made in a temporary directory and removed at the end.

Beside "transfer", "swarm" and "image", desync, aria2c and ipfs are run too where
they are found in PATH; docs/testing.md says how to get them. docs/figures.md lists
each bound with the command that measures it and what it gave last.

"coldstart", "firstread" and "swarm" make their networks of namespaces and take
root; "all" leaves them out where that cannot be had. "announce" makes networks of 3 and 30
nodes inside this process and computes the rest; with --slow only 300 nodes are
computed, and daemons that hold a million chunks are watched.

With --json: one document with all tables.`,
		Example: `  flistnode bench load
  flistnode bench image --root ./rootfs --slow
  flistnode bench transfer --size 1GiB
  flistnode bench announce --plots .
  flistnode bench swarm --nodes 8 --rate 100mbit --size 128MiB --plots .`,
		Args:      wantArgs(1, 1),
		ValidArgs: []string{"load", "image", "mount", "memory", "coldstart", "firstread", "transfer", "announce", "swarm", "all"},
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if opts.Rate, err = testnet.ParseRate(rate); err != nil || opts.Rate == 0 {
				return usagef("--rate %s: want a rate as in 100mbit", quote(rate))
			}
			if opts.Nodes < 1 || opts.Nodes > 60 {
				return usagef("--nodes %d: want 1 to 60", opts.Nodes)
			}
			if only != "" {
				if opts.Only, err = regexp.Compile(only); err != nil {
					return usagef("--only %s: %v", quote(only), err)
				}
			}
			opts.SwarmBytes, opts.TransferBytes = 128<<20, 1<<30
			if bytes > 0 {
				opts.SwarmBytes, opts.TransferBytes = int64(bytes), int64(bytes)
			}
			return a.bench(cmd.Context(), args[0], opts, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Root, "root", "", "the root file system `DIR` to measure with; image and mount take a usual directory if not given")
	f.StringVar(&only, "only", "", "mount: only the cases whose names match `REGEXP`, as in 'find.*warm'")
	f.IntVar(&opts.Runs, "runs", 3, "`N` counted runs of each side")
	f.BoolVar(&opts.Slow, "slow", false, "also measure and compare with what takes minutes")
	f.StringVar(&opts.Work, "work", "", "work in `DIR` and keep images and stores there for later runs of load, mount, memory and coldstart")
	f.IntVar(&opts.Nodes, "nodes", 8, "swarm: `N` nodes that fetch, beside the seed")
	f.StringVar(&rate, "rate", "100mbit", "swarm, coldstart: the `RATE` of every link, both ways; firstread: of the faster uplink")
	f.Var(&bytes, "size", "transfer, firstread, swarm: `SIZE` of the content; 1GiB and 128MiB if not given")
	f.StringVar(&opts.Plots, "plots", "", "also draw what can be drawn, as SVG into `DIR`")
	f.StringVar(&out, "out", "", "also write the tables as JSON to `FILE`")
	return cmd
}

func (a *app) bench(ctx context.Context, which string, opts bench.Options, out string) error {
	var err error
	if opts.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's file: %w", err)
	}
	if opts.Runs < 1 {
		return usagef("--runs %d: want at least 1", opts.Runs)
	}
	if opts.Root == "" && slices.Contains([]string{"image", "mount", "coldstart", "all"}, which) {
		if opts.Root, err = testnet.UsualDir(ctx); err != nil {
			return err
		}
	}
	if opts.Root != "" {
		if opts.Root, err = filepath.Abs(opts.Root); err != nil {
			return fmt.Errorf("make path absolute: %w", err)
		}
	}
	if opts.Work != "" {
		if opts.Work, err = filepath.Abs(opts.Work); err != nil {
			return fmt.Errorf("make path absolute: %w", err)
		}
	}
	var tables []bench.Table
	for _, b := range benchmarks {
		if which != "all" && which != b.name {
			continue
		}
		if which == "all" && slices.Contains([]string{"coldstart", "firstread", "swarm"}, b.name) && fabric.Available() != nil {
			opts.Progress(fmt.Sprintf("no %s: %v", b.name, fabric.Available()))
			continue
		}
		t, err := b.run(ctx, opts)
		if err != nil {
			return err
		}
		tables = append(tables, t)
		if a.json {
			continue
		}
		if err := t.Print(a.stdout); err != nil {
			return err
		}
	}
	if len(tables) == 0 {
		return usagef("no benchmark %s: want load, image, mount, memory, coldstart, firstread, transfer, announce, swarm or all", quote(which))
	}
	if out != "" {
		if err := writeTables(out, tables); err != nil {
			return err
		}
	}
	if a.json {
		return bench.WriteJSON(a.stdout, tables)
	}
	return nil
}

func writeTables(path string, tables []bench.Table) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write tables: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	return bench.WriteJSON(f, tables)
}
