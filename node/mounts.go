package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/mount"
	"github.com/flistnode/flistnode/node/api"
)

// mounts owns the mounts of a node. Each runs until it is unmounted, by this
// node or by anybody else, or until close.
type mounts struct {
	run sync.WaitGroup // one for each mount

	mu     sync.Mutex
	closed bool
	all    map[string]*mounted // by mount point
	failed []error             // of mounts that could not be taken away
}

type mounted struct {
	*mount.Mount
	root  cid.Cid
	name  string
	since time.Time
	stop  context.CancelFunc // takes it away

	follow func(ctx context.Context) // what goes on beside it; it ends with ctx

	ended chan struct{} // closed when Run has returned and err is set
	err   error
}

func newMounts() *mounts {
	return &mounts{all: make(map[string]*mounted)}
}

// Mount implements api.Mounter.
func (n *Node) Mount(ctx context.Context, req api.MountRequest) (api.MountInfo, error) {
	if err := checkDir(req.Dir); err != nil {
		return api.MountInfo{}, err
	}
	if err := checkName(req.Name); err != nil {
		return api.MountInfo{}, err
	}
	prefetch, err := checkPrefetch(req.Prefetch)
	if err != nil {
		return api.MountInfo{}, err
	}
	opts := mount.Options{
		Dir: req.Dir, NonEmpty: req.NonEmpty, AllowOther: req.AllowOther, SetUID: req.SetUID, Devices: req.Devices,
		DataDir: n.cfg.Data, Log: n.log,
		// The source gives up before, and says whom it asked.
		ReadTimeout: n.cfg.ReadTimeout + mountGrace,
	}
	if err := mount.Check(req.Dir, opts); err != nil { // before anything is fetched
		return api.MountInfo{}, mountError(err)
	}
	im, err := n.load(ctx, req.FList)
	if err != nil {
		return api.MountInfo{}, err
	}
	opts.Ahead = n.aheadOf(im.CID())
	fs, err := mount.New(im, n.reading(im.CID()), opts)
	if err != nil {
		return api.MountInfo{}, mountError(err)
	}
	if err := n.pin(im.CID(), req.Name, api.HowMounted); err != nil {
		return api.MountInfo{}, err
	}
	m := &mounted{Mount: fs, root: im.CID(), name: req.Name, since: time.Now(), ended: make(chan struct{})}
	m.follow = func(ctx context.Context) { n.follow(ctx, m, im, prefetch) }
	if err := n.mounts.start(ctx, m); err != nil {
		return api.MountInfo{}, mountError(err)
	}
	return m.info(), nil
}

const mountGrace = 5 * time.Second

// mountError gives errors of package mount their codes.
func mountError(err error) error {
	var busy *mount.BusyError
	switch {
	case errors.As(err, &busy):
		return api.WithCode(api.Busy, err)
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOTDIR):
		return api.WithCode(api.Invalid, err)
	}
	return err
}

// start mounts m and returns when it answers. If ctx ends before, m is taken
// away again.
func (ms *mounts) start(ctx context.Context, m *mounted) error {
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the request
	m.stop = stop
	if err := ms.add(m); err != nil {
		stop()
		return err
	}
	go func() { // counted in ms.run by add
		defer ms.run.Done()
		defer stop()
		beside, stopBeside := context.WithCancel(runCtx)
		followed := make(chan struct{})
		go func() {
			defer close(followed)
			m.follow(beside)
		}()
		m.err = m.Run(runCtx)
		stopBeside()
		<-followed
		ms.remove(m)
		close(m.ended)
	}()
	select {
	case <-m.Ready():
		return nil
	case <-m.ended:
		if m.err == nil {
			return fmt.Errorf("%s was unmounted at once", m.Dir())
		}
		return m.err
	case <-ctx.Done():
		stop()
		<-m.ended
		return context.Cause(ctx)
	}
}

func (ms *mounts) add(m *mounted) error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.closed {
		return fmt.Errorf("mount %s: node is stopping: %w", m.Dir(), context.Canceled)
	}
	if _, ok := ms.all[m.Dir()]; ok {
		return fmt.Errorf("mount point %s: this node is mounting there already: %w", m.Dir(), api.ErrBusy)
	}
	ms.all[m.Dir()] = m
	ms.run.Add(1)
	return nil
}

func (ms *mounts) remove(m *mounted) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.all, m.Dir())
	if m.err != nil && ms.closed {
		ms.failed = append(ms.failed, m.err)
	}
}

// close takes all mounts away and returns when they are gone.
func (ms *mounts) close() error {
	ms.mu.Lock()
	ms.closed = true
	ms.mu.Unlock()
	for _, m := range ms.list() {
		m.stop()
	}
	ms.run.Wait()
	ms.mu.Lock()
	defer ms.mu.Unlock()
	err := errors.Join(ms.failed...)
	ms.failed = nil
	return err
}

// list returns the mounts in the order of their directories.
func (ms *mounts) list() []*mounted {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	out := make([]*mounted, 0, len(ms.all))
	for _, m := range ms.all {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *mounted) int { return strings.Compare(a.Dir(), b.Dir()) })
	return out
}

func (ms *mounts) uses(root cid.Cid) bool {
	return slices.ContainsFunc(ms.list(), func(m *mounted) bool { return m.root.Equals(root) })
}

// Unmount implements api.Mounter. It also clears a stale mount that a node
// which died has left.
func (n *Node) Unmount(ctx context.Context, dir string, force bool) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	if err := mount.Unmount(dir, force); err != nil {
		return mountError(err)
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	for _, m := range n.mounts.list() {
		if m.Dir() != resolved || force { // a forced one lives on while it is used
			continue
		}
		select {
		case <-m.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Mounts implements api.Mounter.
func (n *Node) Mounts(context.Context) ([]api.MountInfo, error) {
	infos := []api.MountInfo{}
	for _, m := range n.mounts.list() {
		infos = append(infos, m.info())
	}
	return infos, nil
}

func (m *mounted) info() api.MountInfo {
	s := m.Stats()
	return api.MountInfo{Dir: m.Dir(), FList: m.root.String(), Name: m.name, Since: m.since.UTC().Truncate(time.Second),
		BytesRead: s.BytesRead, ReadErrors: s.ReadErrors}
}
