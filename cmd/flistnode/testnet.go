package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/flistnode/flistnode/testnet"
)

func newTestnet(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "testnet",
		Short: "Run a network of real nodes on this machine",
		Long: `Run several nodes on this machine, each a process of its own with a data
directory and a control socket: on loopback, or with "run" in a network with
slow links and faults.`,
		Example: `  flistnode testnet demo
  flistnode testnet up --nodes 5
  flistnode testnet run flash-crowd`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTestnetDemo(a), newTestnetUp(a), newTestnetRun(a), newTestnetLiar(a))
	return cmd
}

func newTestnetDemo(a *app) *cobra.Command {
	var nodes int
	cmd := &cobra.Command{
		Use:   "demo [DIR]",
		Short: "Pack a directory on one node, mount it by CID on another, compare",
		Long: `Start nodes in a line, each knowing only the one before it; pack DIR on the
first, mount it by its CID alone on the last, compare the mount with DIR to the
last attribute and byte, print what it took, and take everything down again,
also on ctrl-C. Without DIR a usual directory of at least 100 MB is taken.

With --json: one document. Exit code 6 if mount and directory differ.`,
		Example: `  flistnode testnet demo
  flistnode testnet demo ./rootfs --nodes 5`,
		Args: wantArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := testnet.DemoOptions{Nodes: nodes, Progress: func(step string) { fmt.Fprintln(a.stderr, step+" ...") }}
			if len(args) > 0 {
				opts.Source = args[0]
			}
			return a.testnetDemo(cmd.Context(), opts)
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "`N` nodes, at least 3")
	return cmd
}

func (a *app) testnetDemo(ctx context.Context, opts testnet.DemoOptions) error {
	if opts.Nodes < 3 {
		return usagef("--nodes %d: a demo takes at least 3", opts.Nodes)
	}
	var err error
	if opts.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's file: %w", err)
	}
	r, err := testnet.Demo(ctx, opts)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(r)
	} else {
		err = a.printDemo(r)
	}
	if r.Differences > 0 {
		return errors.Join(err, errDifferent)
	}
	return err
}

func (a *app) printDemo(r testnet.DemoResult) error {
	t := a.table()
	t.row("directory", quote(r.Source))
	t.row("flist CID", r.CID)
	t.row("in it", fmt.Sprintf("%s entries, %s files, %s", count(r.Entries), count(r.Files), size(r.Bytes)))
	t.row("chunks", fmt.Sprintf("%s of %s, compressed", count(r.Chunks), size(r.StoredBytes)))
	t.row("metadata (.flist)", fmt.Sprintf("%s, %.0f times smaller than the content", size(r.FlistBytes), float64(r.Bytes)/float64(r.FlistBytes)))
	t.row("packed in", seconds(r.PackSeconds))
	t.row("mounted in", fmt.Sprintf("%s, by CID on a node %d hops away", seconds(r.MountSeconds), r.Nodes-1))
	t.row("first ls in", seconds(r.ListSeconds))
	t.row("moved by then", fmt.Sprintf("%s, %.0f times less than the content", size(r.MountMoved), float64(r.Bytes)/float64(max(r.MountMoved, 1))))
	t.row("all read in", seconds(r.ReadSeconds))
	t.row("moved in all", fmt.Sprintf("%s in %s chunks, from %d peers", size(r.MovedBytes), count(r.FetchedChunks), r.Peers))
	t.row("compared", fmt.Sprintf("%s entries, attributes and content: %s differences", count(r.Compared), count(r.Differences)))
	if err := t.flush(); err != nil {
		return err
	}
	for _, d := range r.First {
		if _, err := fmt.Fprintf(a.stdout, "%s: %s: %s in the directory, %s in the mount\n", quote(d.Path), d.What, quote(d.A), quote(d.B)); err != nil {
			return err
		}
	}
	return nil
}

func newTestnetUp(a *app) *cobra.Command {
	var nodes int
	var dir string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Keep a network running until ctrl-C",
		Long: `Start nodes in a line, each knowing only the one before it, say how to talk to
each, and keep them running until ctrl-C. What they keep is removed at the end,
unless --dir says where it shall stay: the next "up" goes on with it.

With --json: one document, as soon as all nodes answer.`,
		Example: `  flistnode testnet up --nodes 5
  flistnode --api /tmp/flistnode-testnet-1/a/sock pack ./rootfs`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.testnetUp(cmd.Context(), nodes, dir) },
	}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "`N` nodes")
	cmd.Flags().StringVar(&dir, "dir", "", "keep the nodes' data in `DIR`")
	return cmd
}

func (a *app) testnetUp(ctx context.Context, count int, dir string) (err error) {
	if count < 1 || count > 64 {
		return usagef("--nodes %d: want 1 to 64", count)
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's file: %w", err)
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "flistnode-testnet-"); err != nil {
			return fmt.Errorf("make a directory for the testnet: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("make path absolute: %w", err)
	}
	network := testnet.New(testnet.Config{Binary: binary, Dir: dir, Log: a.log})
	defer func() { err = errors.Join(err, network.Stop(context.WithoutCancel(ctx))) }()
	nodes, err := network.Line(ctx, count)
	if err != nil {
		return err
	}
	if err := a.printNetwork(nodes); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// runningNode is how `testnet up --json` shows a node.
type runningNode struct {
	Name   string `json:"name"`
	PID    int    `json:"pid"`
	PeerID string `json:"peer_id"`
	Addr   string `json:"addr"`
	API    string `json:"api"`
	Data   string `json:"data"`
	Log    string `json:"log"`
}

func (a *app) printNetwork(nodes []*testnet.Node) error {
	list := make([]runningNode, len(nodes))
	for i, n := range nodes {
		list[i] = runningNode{Name: n.Name, PID: n.PID(), PeerID: n.PeerID(), Addr: n.Addr(),
			API: n.Socket(), Data: n.Data(), Log: filepath.Join(n.Dir, "log")}
	}
	if a.json {
		return a.printJSON(list)
	}
	t := a.table("NODE", "PID", "ADDRESS (for --peer)")
	for _, n := range list {
		t.row(n.Name, n.PID, n.Addr)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, "\nTo talk to a node, name its control socket:")
	for _, n := range list {
		fmt.Fprintf(a.stdout, "  flistnode --api %s status\n", quote(n.API))
	}
	_, err := fmt.Fprintln(a.stdout, "\nCtrl-C stops them all.")
	return err
}
