// Package testnet runs local networks of real nodes: one process a node, each
// with a data directory and a control socket, on loopback or in a network of
// namespaces (package fabric). The demo, `flistnode testnet up`, the scenarios
// of `flistnode testnet run` and the end-to-end tests stand on it; it also
// compares directories (CompareTrees).
//
// It knows nodes only as a user does: by their command line and control API.
// A Network may be used from several goroutines.
package testnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/flistnode/flistnode/testnet/fabric"
)

// Config says what a Network is made of.
type Config struct {
	Binary string   // the flistnode executable
	Dir    string   // where the nodes keep everything; Stop leaves it there
	Args   []string // further arguments of every daemon
	Log    *slog.Logger

	// Fabric, if not nil, is where the nodes live: a node runs in the host of
	// its name, at the host's address and site, and finds others on its LAN.
	// Without one all nodes share loopback.
	Fabric *fabric.Fabric
}

// Network is a set of running nodes.
type Network struct {
	cfg Config

	mu    sync.Mutex
	nodes []*Node
	liars []*Liar
}

// New returns a Network without nodes.
func New(cfg Config) *Network {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Network{cfg: cfg}
}

// Start starts a node that knows only the given peers and waits until it
// answers. Its name is also that of its directory; starting a node of a name
// that has stopped goes on with its data.
func (n *Network) Start(ctx context.Context, name string, peers ...*Node) (*Node, error) {
	dir := filepath.Join(n.cfg.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("testnet: directory of node %s: %w", name, err)
	}
	in, listen, err := n.place(name)
	if err != nil {
		return nil, err
	}
	args := append([]string{"daemon", "--data", filepath.Join(dir, "data"), "--api", filepath.Join(dir, "sock"),
		"--log-format", "json"}, listen...)
	for _, p := range peers {
		args = append(args, "--peer", p.addr)
	}
	node, err := startNode(ctx, in, n.cfg.Binary, append(args, n.cfg.Args...), name, dir)
	if err != nil {
		return nil, err
	}
	n.cfg.Log.Info("node started", "node", name, "peer", node.id.PeerID, "socket", node.Socket())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes = append(n.nodes, node)
	return node, nil
}

// nodePort is where nodes with an address of their own listen.
const nodePort = 4010

// place returns where a node runs, and the arguments that make it listen there.
func (n *Network) place(name string) (placer, []string, error) {
	if n.cfg.Fabric == nil {
		return anywhere, []string{"--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"}, nil
	}
	h, err := n.cfg.Fabric.Host(name)
	if err != nil {
		return nil, nil, err
	}
	listen := fmt.Sprintf("/ip4/%[1]s/tcp/%[2]d,/ip4/%[1]s/udp/%[2]d/quic-v1", h.Addr(), nodePort)
	return h.Do, []string{"--listen", listen, "--site", h.Site()}, nil
}

// Nodes returns the nodes in the order in which they were started.
func (n *Network) Nodes() []*Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Node(nil), n.nodes...)
}

// Stop stops all nodes and liars, the last started first, and returns when their
// processes have ended.
func (n *Network) Stop(ctx context.Context) error {
	n.mu.Lock()
	liars := n.liars
	n.mu.Unlock()
	for _, l := range liars {
		l.Stop()
	}
	nodes := n.Nodes()
	errs := make([]error, 0, len(nodes))
	for i := len(nodes) - 1; i >= 0; i-- {
		errs = append(errs, nodes[i].Stop(ctx))
	}
	return errors.Join(errs...)
}

// Line starts count nodes named a, b, c ..., each of which knows only the one
// before it.
func (n *Network) Line(ctx context.Context, count int) ([]*Node, error) {
	var nodes []*Node
	for i := range count {
		var before []*Node
		if i > 0 {
			before = nodes[i-1:]
		}
		node, err := n.Start(ctx, nodeName(i), before...)
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// nodeName returns a, b ... z, n26, n27 ...
func nodeName(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return fmt.Sprintf("n%d", i)
}
