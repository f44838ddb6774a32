package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/flistnode/flistnode/mount"
	"github.com/flistnode/flistnode/mount/hold"
)

// keeper keeps the connections of mounts while no daemon runs: a holder
// process, or systemd.
type keeper interface {
	Keep(key string, f *os.File) error
	Drop(key string) error
	Take() (map[string]*os.File, error)
	Close() error
}

var (
	_ keeper = (*hold.Holder)(nil)
	_ keeper = (*hold.Systemd)(nil)
)

// connectionRecords is the namespace of the store's records with the states of
// kept connections, by key.
const connectionRecords = "connection"

// keeping is the node's keeper, which is started when it is first needed.
type keeping struct {
	mu sync.Mutex
	k  keeper
}

// keeper returns the node's keeper, or nil if there is none. With start it
// starts one.
func (n *Node) keeper(ctx context.Context, start bool) (keeper, error) {
	if !n.cfg.KeepMounts || len(n.cfg.HoldCommand) == 0 {
		return nil, nil
	}
	n.keeping.mu.Lock()
	defer n.keeping.mu.Unlock()
	if n.keeping.k != nil {
		return n.keeping.k, nil
	}
	if s := hold.FromSystemd(); s != nil {
		n.keeping.k = s
		return s, nil
	}
	if err := os.MkdirAll(n.mountsDir(), 0o700); err != nil {
		return nil, fmt.Errorf("directory of mounts: %w", err)
	}
	command := n.cfg.HoldCommand
	if !start {
		command = nil
	}
	h, err := hold.Open(ctx, n.mountsDir(), command)
	if !start && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n.keeping.k = h
	return h, nil
}

func (n *Node) closeKeeper() error {
	n.keeping.mu.Lock()
	defer n.keeping.mu.Unlock()
	if n.keeping.k == nil {
		return nil
	}
	k := n.keeping.k
	n.keeping.k = nil
	return k.Close()
}

// keepConnection returns what Options.Keep of m is. A mount that cannot be
// kept is one all the same: it ends with this process.
func (n *Node) keepConnection(m *mounted) func(*mount.Connection, error) error {
	if !n.cfg.KeepMounts || len(n.cfg.HoldCommand) == 0 {
		return nil
	}
	return func(c *mount.Connection, err error) error {
		if err == nil {
			err = n.keepOne(m, c)
		}
		if err != nil {
			n.log.Warn("mount will be replaced, not taken over, if this process dies", "mount", m.req.Dir, "err", err)
		}
		return nil
	}
}

func (n *Node) keepOne(m *mounted, c *mount.Connection) error {
	k, err := n.keeper(context.Background(), true)
	if err != nil {
		return err
	}
	key := rand.Text()
	if err := n.store.PutRecord(connectionRecords, key, c.State); err != nil {
		return err
	}
	m.key = key
	return k.Keep(key, c.Device)
}

// letGo ends the keeping of m's connection.
func (n *Node) letGo(m *mounted) {
	if m.key == "" {
		return
	}
	if err := n.letKeyGo(m.key); err != nil {
		n.log.Warn("connection of a mount that has ended is still kept", "mount", m.Dir(), "err", err)
	}
}

func (n *Node) letKeyGo(key string) error {
	k, err := n.keeper(context.Background(), false)
	if err == nil && k != nil {
		err = k.Drop(key)
	}
	return errors.Join(err, n.store.DeleteRecord(connectionRecords, key))
}

// kept is a connection that the last daemon left.
type kept struct {
	key        string
	conn       mount.Connection
	flist, dir string
	attached   bool // in the tree
}

// takeKept returns the connections that can be served on, and lets go of
// others.
func (n *Node) takeKept(ctx context.Context) []kept {
	var files map[string]*os.File
	k, err := n.keeper(ctx, false)
	if err == nil && k != nil {
		files, err = k.Take()
	}
	if err != nil {
		n.log.Warn("mounts are replaced, not taken over", "err", err)
	}
	states := make(map[string][]byte)
	if err := n.store.Records(connectionRecords, func(key string, value []byte) error {
		states[key] = value
		return nil
	}); err != nil {
		n.log.Warn("mounts are replaced, not taken over", "err", err)
	}
	var all []kept
	for key, f := range files {
		c := kept{key: key, conn: mount.Connection{Device: f, State: states[key]}}
		delete(states, key)
		if c.flist, c.dir, c.attached, err = mount.StateOf(c.conn.State); err == nil && mount.Alive(f) {
			all = append(all, c)
			continue
		}
		f.Close()
		n.forgetKey(key)
	}
	for key := range states {
		n.forgetKey(key)
	}
	return all
}

func (n *Node) forgetKey(key string) {
	if err := n.letKeyGo(key); err != nil {
		n.log.Warn("connection of an old mount is still kept", "err", err)
	}
}

// resume serves a kept connection on. If it cannot, it lets go of it, which
// ends the mount.
func (n *Node) resume(ctx context.Context, k kept, rec mountRecord, detached bool) error {
	im, err := n.load(ctx, k.flist)
	if err != nil {
		k.conn.Device.Close()
		n.forgetKey(k.key)
		return err
	}
	m := n.newMounted(rec.request(k.dir), im)
	m.since, m.key = rec.Since, k.key
	m.detached.Store(detached)
	if m.Mount, err = mount.Resume(im, m.src, n.mountOptions(m), k.conn); err == nil {
		err = n.mounts.start(ctx, m)
	} else {
		im.Close()
	}
	if err != nil {
		n.forgetKey(k.key)
		return err
	}
	n.log.Info("mount is taken over", "mount", k.dir, "flist", k.flist, "detached", detached)
	return nil
}
