package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/testnet/fabric"
)

// crowdDesync lets all hosts but the first take the content with desync from a
// chunk store that the first serves over HTTP.
func crowdDesync(ctx context.Context, fab *fabric.Fabric, _ Options, dir string) (c crowd, err error) {
	hosts := fab.Hosts()
	content := filepath.Join(dir, "content")
	index := filepath.Join(dir, "content.caibx")
	if err := desyncMake(ctx, filepath.Join(content, "desync"), index, filepath.Join(content, "file-0000")); err != nil {
		return c, err
	}
	server, stop, err := serveFrom(ctx, hosts[0], content)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	before := ownCPU()
	err = eachHost(hosts[1:], &c, func(h *fabric.Host) (cpu float64, err error) {
		out := filepath.Join(dir, h.Name())
		cmd := exec.CommandContext(ctx, "desync", "extract", "-s", server+"desync/", index, out)
		var said strings.Builder
		cmd.Stderr = &said
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if err := h.Do(cmd.Start); err != nil {
			return 0, err
		}
		if err := cmd.Wait(); err != nil {
			return 0, fmt.Errorf("desync: %w: %s", err, said.String())
		}
		return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), os.Remove(out)
	})
	c.cpu += ownCPU() - before
	return c, err
}

// crowdKubo lets all hosts but the first fetch the content from daemons of
// ipfs that are all connected to one another: nobody must be looked for.
func crowdKubo(ctx context.Context, fab *fabric.Fabric, _ Options, dir string) (c crowd, err error) {
	hosts := fab.Hosts()
	daemons := map[*fabric.Host]*kubo{}
	defer func() {
		for h, k := range daemons {
			c.cpu += k.stop()
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, "ipfs-"+h.Name())))
		}
	}()
	for i, h := range hosts {
		k, err := startKubo(ctx, h.Do, filepath.Join(dir, "ipfs-"+h.Name()), fmt.Sprintf("/ip4/%s/tcp/4001", h.Addr()))
		if err != nil {
			return c, err
		}
		daemons[h] = k
		for _, other := range hosts[:i] {
			if err := k.connect(ctx, daemons[other]); err != nil {
				return c, err
			}
		}
	}
	cid, err := daemons[hosts[0]].add(ctx, filepath.Join(dir, "content", "file-0000"))
	if err != nil {
		return c, err
	}
	return c, eachHost(hosts[1:], &c, func(h *fabric.Host) (float64, error) { return 0, daemons[h].fetch(ctx, cid) })
}

// eachHost lets all hosts begin at once, and notes in c when each was done and
// the processor seconds it says.
func eachHost(hosts []*fabric.Host, c *crowd, run func(h *fabric.Host) (cpu float64, err error)) error {
	var mu sync.Mutex
	var g errgroup.Group
	began := time.Now()
	for _, h := range hosts {
		g.Go(func() error {
			cpu, err := run(h)
			if err != nil {
				return fmt.Errorf("%s: %w", h.Name(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			c.seconds, c.cpu = append(c.seconds, time.Since(began).Seconds()), c.cpu+cpu
			return nil
		})
	}
	return g.Wait()
}
