package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
)

const (
	readers  = 8   // that read everything while the daemon's memory is watched
	memoryMB = 100 // the bound the project has set itself
)

// Memory measures the memory of a daemon that has an flist of a million entries
// mounted, while all files are read.
func Memory(ctx context.Context, opts Options) (t Table, err error) {
	dir, done, err := workDir(opts)
	if err != nil {
		return t, err
	}
	network := testnet.New(testnet.Config{Binary: opts.Binary, Dir: dir})
	defer func() { err = errors.Join(err, network.Stop(context.WithoutCancel(ctx)), done()) }()
	cid, err := millionNode(ctx, opts, filepath.Join(dir, "million"))
	if err != nil {
		return t, err
	}
	n, err := network.Start(ctx, "million")
	if err != nil {
		return t, err
	}
	idle := anonMemory(n.PID())
	target := filepath.Join(n.Dir, "mount")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	peak := watchMemory(n.PID())
	if _, err := n.Mount(ctx, api.MountRequest{FList: cid, Dir: target}); err != nil {
		return t, err
	}
	if _, err := os.ReadDir(target); err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	mounted := peak()
	opts.Progress(fmt.Sprintf("%d readers read everything", readers))
	peak = watchMemory(n.PID())
	files := watch(n.PID(), fileMemory)
	began := time.Now()
	err = readAll(ctx, target)
	reading, mapped, seconds := peak(), files(), time.Since(began).Seconds()
	t.Title = "an flist of 1,000,000 entries, all of it local, mounted by a daemon"
	t.Notes = fmt.Sprintf("memory is anonymous memory; all files were read in %.0f s", seconds)
	t.Notes += "; mapped files (the program, the store, the tables) are page cache, which the kernel takes back when it needs the room"
	t.add("memory before", idle, "MB", "", 0)
	t.add("memory while mounting", mounted, "MB", "", 0)
	t.add(fmt.Sprintf("memory while %d readers read all", readers), reading, "MB", "the bound", memoryMB)
	t.add("mapped files in memory then", mapped, "MB", "", 0)
	return t, errors.Join(err, n.Unmount(ctx, target, true))
}

// millionNode puts an image into the store of a node that is not started yet,
// unless it is there from an earlier run.
func millionNode(ctx context.Context, opts Options, dir string) (cid string, err error) {
	mark := filepath.Join(dir, "cid")
	if b, err := os.ReadFile(mark); err == nil {
		return string(b), nil
	}
	opts.Progress("building an flist of 1,000,000 entries")
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	store, err := chunkstore.Open(filepath.Join(dir, "data", "store"), chunkstore.Options{})
	if err != nil {
		return "", err
	}
	c, err := million(ctx, store, dir)
	if err := errors.Join(err, store.Close()); err != nil {
		return "", err
	}
	return c.String(), os.WriteFile(mark, []byte(c.String()), 0o600)
}
