package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// otherLimit bounds how long a program that may stall is waited for, once.
const otherLimit = 5 * time.Minute

// place calls a function on a thread whose processes and sockets belong to a
// host of a test network, or to this machine.
type place func(func() error) error

func here(fn func() error) error { return fn() }

// kubo is a daemon of the program ipfs with a repository of its own that knows
// only the peers it is told of.
type kubo struct {
	in     place
	env    []string
	cmd    *exec.Cmd
	client *http.Client
	api    string // base URL
	addr   string // where it listens, with its ID
}

// startKubo makes a repository in the new directory dir and starts a daemon
// that listens at addr.
func startKubo(ctx context.Context, in place, dir, addr string) (k *kubo, err error) {
	k = &kubo{in: in, env: append(os.Environ(), "IPFS_PATH="+dir, "IPFS_TELEMETRY=off", "HOME="+dir)}
	k.client = &http.Client{Transport: &http.Transport{DialContext: k.dial}}
	init := exec.CommandContext(ctx, "ipfs", "init", "--profile=test")
	init.Env = k.env
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("bench: ipfs init: %w: %s", err, out)
	}
	if err := isolate(filepath.Join(dir, "config"), addr); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer log.Close() // the process has its own descriptor
	k.cmd = exec.CommandContext(ctx, "ipfs", "daemon")
	k.cmd.Env, k.cmd.Stdout, k.cmd.Stderr = k.env, log, log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := in(k.cmd.Start); err != nil {
		return nil, fmt.Errorf("bench: start ipfs: %w", err)
	}
	if err := k.ready(ctx, dir); err != nil {
		k.stop()
		said, _ := os.ReadFile(log.Name()) // the error is told anyway
		return nil, fmt.Errorf("bench: ipfs does not answer: %w\n%s", err, said)
	}
	return k, nil
}

// isolate lets a repository of the profile "test", which has neither
// bootstrap peers nor multicast, listen at addr, and look for nobody.
func isolate(config, addr string) error {
	data, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	var sections map[string]any
	if err := json.Unmarshal(data, &sections); err != nil {
		return fmt.Errorf("bench: configuration of ipfs: %w", err)
	}
	set := func(section, key string, value any) {
		old, ok := sections[section].(map[string]any)
		if !ok {
			old = map[string]any{}
			sections[section] = old
		}
		old[key] = value
	}
	set("Addresses", "Swarm", []string{addr})
	set("Routing", "Type", "none")
	set("Swarm", "EnableHolePunching", false)
	set("Swarm", "RelayClient", map[string]any{"Enabled": false})
	set("AutoNAT", "ServiceMode", "disabled")
	set("Version", "SwarmCheckEnabled", false)
	if data, err = json.MarshalIndent(sections, "", "  "); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := os.WriteFile(config, data, 0o600); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// ready waits until the daemon answers.
func (k *kubo) ready(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := k.ask(ctx, dir)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (k *kubo) ask(ctx context.Context, dir string) error {
	api, err := os.ReadFile(filepath.Join(dir, "api"))
	if err != nil {
		return err
	}
	at, err := multiaddr.NewMultiaddr(strings.TrimSpace(string(api)))
	if err != nil {
		return err
	}
	_, hostPort, err := manet.DialArgs(at)
	if err != nil {
		return err
	}
	k.api = "http://" + hostPort + "/api/v0/"
	var id struct{ Addresses []string }
	if err := k.call(ctx, "id", nil, &id); err != nil {
		return err
	}
	if len(id.Addresses) == 0 {
		return errors.New("it does not listen yet")
	}
	k.addr = id.Addresses[0]
	return nil
}

func (k *kubo) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = k.in(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// call calls the daemon's RPC API and decodes the first object of its answer,
// if result is not nil.
func (k *kubo) call(ctx context.Context, command string, args url.Values, result any) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.api+command+"?"+args.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ipfs %s: %s: %s", command, resp.Status, body)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(body, result)
}

// add adds a file and returns its CID.
func (k *kubo) add(ctx context.Context, path string) (cid string, err error) {
	cmd := exec.CommandContext(ctx, "ipfs", "add", "--quieter", "--progress=false", path)
	cmd.Env = k.env
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := k.in(cmd.Start); err != nil {
		return "", fmt.Errorf("bench: ipfs add: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("bench: ipfs add: %w: %s", err, said.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// connect connects to another daemon.
func (k *kubo) connect(ctx context.Context, to *kubo) error {
	return k.call(ctx, "swarm/connect", url.Values{"arg": {to.addr}}, nil)
}

// fetch brings all blocks below cid here, verified, and keeps them.
func (k *kubo) fetch(ctx context.Context, cid string) error {
	return k.call(ctx, "pin/add", url.Values{"arg": {cid}}, nil)
}

// stop ends the daemon, waits for it, and returns the processor seconds it has
// used.
func (k *kubo) stop() float64 {
	k.client.CloseIdleConnections()
	_ = k.cmd.Process.Kill() // an error means that it has ended; its repository is not used again
	_ = k.cmd.Wait()         // killed
	return (k.cmd.ProcessState.UserTime() + k.cmd.ProcessState.SystemTime()).Seconds()
}
