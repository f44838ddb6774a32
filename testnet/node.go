package testnet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/flistnode/flistnode/node/api"
)

// Node is one flistnode daemon.
type Node struct {
	*api.Client // talks to the node over its control socket

	Name string
	Dir  string // log, socket, and data/

	*process
	id   api.Identity
	addr string // what --peer of another node takes

	closeOnce sync.Once
}

// startTimeout and stopTimeout are generous: machines under test are busy.
const (
	startTimeout = time.Minute
	stopTimeout  = 30 * time.Second
)

func startNode(ctx context.Context, in placer, binary string, args []string, name, dir string) (*Node, error) {
	p, err := startProcess(ctx, in, binary, args, filepath.Join(dir, "log"), nil)
	if err != nil {
		return nil, fmt.Errorf("testnet: start node %s: %w", name, err)
	}
	n := &Node{Name: name, Dir: dir, process: p}
	if err := n.waitReady(ctx); err != nil {
		n.Kill()
		return nil, err
	}
	return n, nil
}

// waitReady waits until the control socket answers.
func (n *Node) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		client, err := api.Dial(n.Socket())
		if err == nil {
			n.Client = client
			if n.id, err = client.ID(ctx); err == nil && len(n.id.Addrs) > 0 {
				n.addr = n.id.Addrs[0]
				return nil
			}
			_ = client.Close() // it was of no use
		}
		select {
		case <-n.ended:
			return fmt.Errorf("testnet: node %s ended at its start: %w\n%s", n.Name, n.err, n.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("testnet: node %s does not answer: %w\n%s", n.Name, errors.Join(ctx.Err(), err), n.LogTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Socket returns the path of the node's control socket.
func (n *Node) Socket() string { return filepath.Join(n.Dir, "sock") }

// Data returns the node's data directory.
func (n *Node) Data() string { return filepath.Join(n.Dir, "data") }

// Addr returns the address other nodes reach it at, as --peer takes it.
func (n *Node) Addr() string { return n.addr }

// PeerID returns who the node is in the network.
func (n *Node) PeerID() string { return n.id.PeerID }

// WaitPeers waits until the node is connected to at least count peers.
func (n *Node) WaitPeers(ctx context.Context, count int) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		peers, err := n.Peers(ctx)
		peers = slices.DeleteFunc(peers, func(p api.Peer) bool { return p.Direction == api.NotConnected })
		if err == nil && len(peers) >= count {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("testnet: node %s has %d of %d peers: %w", n.Name, len(peers), count, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop asks the daemon to end, as ctrl-C does, and waits for it; one that
// hangs is killed, which is an error. Stopping twice is none.
func (n *Node) Stop(ctx context.Context) error { return n.end(ctx, syscall.SIGTERM) }

// HandOver is Stop for a daemon whose mounts the next one takes over.
func (n *Node) HandOver(ctx context.Context) error { return n.end(ctx, syscall.SIGUSR2) }

func (n *Node) end(ctx context.Context, s syscall.Signal) error {
	if n.Ended() {
		n.closeClient()
		return nil
	}
	if err := n.terminate(s); err != nil {
		return fmt.Errorf("testnet: stop node %s: %w", n.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	select {
	case <-n.ended:
		n.closeClient()
		if n.err != nil {
			return fmt.Errorf("testnet: node %s: %w\n%s", n.Name, n.err, n.LogTail())
		}
		return nil
	case <-ctx.Done():
		n.Kill()
		return fmt.Errorf("testnet: node %s did not end and was killed: %w", n.Name, ctx.Err())
	}
}

// Kill ends the daemon with SIGKILL and waits until it is gone.
func (n *Node) Kill() {
	n.kill()
	n.closeClient()
}

func (n *Node) closeClient() {
	n.closeOnce.Do(func() {
		if n.Client != nil {
			_ = n.Close() // the client; the process behind it has ended
		}
	})
}

// LogTail returns the last lines of the daemon's log.
func (n *Node) LogTail() string { return tail(filepath.Join(n.Dir, "log")) }
