package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
	"github.com/flistnode/flistnode/testnet/liar"
)

func newTestnetRun(a *app) *cobra.Command {
	var list, hold bool
	cmd := &cobra.Command{
		Use:   "run SCENARIO|FILE",
		Short: "Run a scenario: sites, slow links, and what can go wrong",
		Long: `Run a scenario: nodes in network namespaces of their own, joined by links with a
rate and a delay, and steps such as fetching, cutting a link, killing a node.
SCENARIO is one that comes with the program (--list); FILE is one of yours, as
docs/testing.md explains. It takes root, and everything is taken down again, also
on ctrl-C.

What happens is printed on stderr while it happens, with the control socket of
each node for "flistnode --api SOCKET status"; then what each node did. With
--json: one document. Exit code 6 if a step did not end as it should. A goal that
was missed is printed and is no failure.`,
		Example: `  flistnode testnet run --list
  flistnode testnet run uplink-cut
  flistnode testnet run ./mine.yaml --hold`,
		Args:      wantArgs(0, 1),
		ValidArgs: testnet.Scenarios(),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case list && len(args) == 0:
				return a.testnetList()
			case len(args) == 0 || list:
				return usagef("want a scenario, a file or --list: \"%s\"", cmd.UseLine())
			}
			return a.testnetRun(cmd.Context(), args[0], hold)
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "list the scenarios that come with the program")
	cmd.Flags().BoolVar(&hold, "hold", false, "keep the network running after the last step, until ctrl-C")
	return cmd
}

func (a *app) testnetList() error {
	type item struct {
		Name  string `json:"name"`
		Title string `json:"title"`
	}
	items := []item{}
	for _, name := range testnet.Scenarios() {
		sc, err := testnet.LoadScenario(name)
		if err != nil {
			return err
		}
		items = append(items, item{sc.Name, sc.Title})
	}
	if a.json {
		return a.printJSON(items)
	}
	t := a.table("SCENARIO", "WHAT HAPPENS")
	for _, i := range items {
		t.row(i.Name, i.Title)
	}
	return t.flush()
}

func (a *app) testnetRun(ctx context.Context, name string, hold bool) error {
	sc, err := testnet.LoadScenario(name)
	if err != nil {
		return usagef("%w", err)
	}
	if err := fabric.Available(); err != nil {
		return fmt.Errorf("no test network can be made here: %w", err)
	}
	opts := testnet.RunOptions{Log: a.log, Progress: func(what string) { fmt.Fprintln(a.stderr, what) }}
	if opts.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's file: %w", err)
	}
	var printed error
	opts.Settled = func(r testnet.Result) {
		if a.json {
			printed = a.printJSON(r)
		} else {
			printed = a.printScenario(r)
		}
		if hold {
			fmt.Fprintln(a.stderr, "The network runs until ctrl-C.")
			<-ctx.Done()
		}
	}
	r, err := testnet.RunScenario(ctx, sc, opts)
	if err := errors.Join(err, printed); err != nil {
		return err
	}
	if r.Failed != "" {
		return &failure{err: fmt.Errorf("scenario %s: %s", quote(name), r.Failed), code: exitDifference}
	}
	return nil
}

func (a *app) printScenario(r testnet.Result) error {
	fmt.Fprintf(a.stdout, "%s: %s\n%s in %s chunks, %s\n\n", r.Scenario, r.Title, size(r.StoredBytes), count(r.Chunks), dash(r.CID))
	t := a.table("NODE", "WAS", "SECONDS", "x FLOOR", "RECEIVED", "NEEDLESS", "SENT", "COPIES", "ASKED AGAIN", "CPU", "VERIFIED", "FROM")
	for _, n := range r.Nodes {
		took, floor, verified := "-", "-", "-"
		if n.Fetched {
			took = fmt.Sprintf("%.2f", n.Seconds)
			if n.Floor > 0 {
				floor = fmt.Sprintf("%.2f", n.Seconds/n.Floor)
			}
		}
		if n.Verified {
			verified = "yes"
		}
		copies := float64(n.SentBytes) / float64(max(r.StoredBytes, 1))
		t.row(n.Name, dash(n.Role), took, floor, size(n.ReceivedBytes), size(n.DuplicateBytes), size(n.SentBytes),
			fmt.Sprintf("%.2f", copies), n.AskedAgain, fmt.Sprintf("%.2f s", n.CPUSeconds), verified, origins(n.From))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	t = a.table("FIGURE", "VALUE", "GOAL", "")
	for _, f := range r.Figures {
		goal, met := "-", ""
		if f.Goal != nil {
			goal = fmt.Sprintf("at most %g", *f.Goal)
			if met = "missed"; *f.Met {
				met = "met"
			}
		}
		t.row(f.Name, strings.TrimSpace(fmt.Sprintf("%.3g %s", f.Value, f.Unit)), goal, met)
	}
	return t.flush()
}

// origins shows from which node how much came.
func origins(from map[string]uint64) string {
	parts := []string{}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		parts = append(parts, name+" "+size(from[name]))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// newTestnetLiar is what testnet starts in place of a node; see package liar.
func newTestnetLiar(a *app) *cobra.Command {
	var cfg liar.Config
	var how string
	cmd := &cobra.Command{
		Use:    "liar",
		Short:  "Be a peer that answers wrongly or not at all",
		Hidden: true,
		Args:   wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Data, cfg.Listen, cfg.Peers = a.settings.node.Data, a.settings.node.Listen, a.settings.node.Peers
			cfg.How, cfg.Log = liar.How(how), a.log
			return liar.Run(cmd.Context(), cfg, func(addrs []string) { fmt.Fprintln(a.stdout, strings.Join(addrs, " ")) })
		},
	}
	cmd.Flags().StringVar(&how, "how", string(liar.Lie), "what to do: `lie` or stall")
	return cmd
}
