package testnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Misdeed is what a liar does when it is asked for a chunk.
type Misdeed string

// The misdeeds.
const (
	Lie   Misdeed = "lie"   // it answers wrong bytes
	Stall Misdeed = "stall" // it never answers
)

// Liar is a peer with the identity and the chunks of a node that ended, which
// answers as no node does; see package liar.
type Liar struct {
	*process
	Name string
}

// StartLiar starts a liar in place of the node of that name, which must have
// ended, and waits until it listens.
func (n *Network) StartLiar(ctx context.Context, name string, how Misdeed, peers ...*Node) (*Liar, error) {
	in, listen, err := n.place(name)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(n.cfg.Dir, name)
	args := []string{"testnet", "liar", "--how", string(how), "--data", filepath.Join(dir, "data"), "--listen", listen[1]}
	for _, p := range peers {
		args = append(args, "--peer", p.addr)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("testnet: %w", err)
	}
	defer r.Close()
	p, err := startProcess(ctx, in, n.cfg.Binary, args, filepath.Join(dir, "log"), w)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("testnet: start liar %s: %w", name, err)
	}
	l := &Liar{process: p, Name: name}
	_ = r.SetReadDeadline(time.Now().Add(startTimeout)) // a pipe has deadlines
	line, err := bufio.NewReader(io.LimitReader(r, 64<<10)).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "/") {
		p.kill()
		return nil, fmt.Errorf("testnet: liar %s does not listen: %w\n%s", name, err, tail(filepath.Join(dir, "log")))
	}
	n.cfg.Log.Info("liar started", "node", name, "how", string(how), "addr", strings.TrimSpace(line))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.liars = append(n.liars, l)
	return l, nil
}

// Stop ends the liar.
func (l *Liar) Stop() { l.kill() }
