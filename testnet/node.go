package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended; then err is set
	err   error
	id    api.Identity
	addr  string // what --peer of another node takes

	closeOnce sync.Once
}

// startTimeout and stopTimeout are generous: machines under test are busy.
const (
	startTimeout = time.Minute
	stopTimeout  = 30 * time.Second
)

func startNode(ctx context.Context, binary string, args []string, name, dir string) (*Node, error) {
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("testnet: log of node %s: %w", name, err)
	}
	defer log.Close() // the process has its own descriptor
	n := &Node{Name: name, Dir: dir, ended: make(chan struct{})}
	// The process is not bound to ctx: Stop lets it unmount and end in order.
	n.cmd = exec.CommandContext(context.WithoutCancel(ctx), binary, args...)
	n.cmd.Stderr = log
	// A process group of its own: ctrl-C in a terminal goes to us alone. And
	// no node outlives a testnet that was killed.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("testnet: start node %s: %w", name, err)
	}
	go func() {
		n.err = n.cmd.Wait()
		close(n.ended)
	}()
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

// PID returns the process ID of the daemon.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// WaitPeers waits until the node is connected to at least count peers.
func (n *Node) WaitPeers(ctx context.Context, count int) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		peers, err := n.Peers(ctx)
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
func (n *Node) Stop(ctx context.Context) error {
	select {
	case <-n.ended:
		n.closeClient()
		return nil
	default:
	}
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
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
	_ = n.cmd.Process.Kill() // an error means that it has ended
	<-n.ended
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
func (n *Node) LogTail() string {
	f, err := os.Open(filepath.Join(n.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 4 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // else the whole log is shown
	}
	var buf bytes.Buffer
	_, _ = io.Copy(&buf, f)
	return strings.TrimSpace(buf.String())
}
