package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/mount"
	"github.com/flistnode/flistnode/node/api"
)

// mounts owns the mounts of a node. Each runs until it is unmounted, by this
// node or by anybody else, or until close.
type mounts struct {
	run sync.WaitGroup // one for each mount

	mu     sync.Mutex
	closed bool
	all    map[*mounted]bool
	lost   map[string]lostMount // by mount point: what could not be brought back
	failed []error              // of mounts that could not be taken away

	restored chan struct{} // closed when what is remembered has been tried
}

type mounted struct {
	*mount.Mount
	im        *flist.Image // closed when Run has returned
	req       api.MountRequest
	root      cid.Cid
	src       source // of its chunks
	key       string // of its connection with the keeper; "" if it is not kept
	since     time.Time
	follow    func(ctx context.Context) // what goes on beside it; it ends with ctx
	replaying atomic.Bool               // a profile is being replayed
	gone      func()                    // called when Run has returned
	detached  atomic.Bool               // no longer in the tree, but still in use
	stop      context.CancelFunc        // takes it away
	leave     context.CancelFunc        // ends what goes on beside it
	ended     chan struct{}             // closed when Run has returned, err is set and the record is gone
	err       error
}

// newMounts returns the mounts of a node that has none; restore says that
// those it remembers will be brought back.
func newMounts(restore bool) *mounts {
	ms := &mounts{all: make(map[*mounted]bool), lost: make(map[string]lostMount), restored: make(chan struct{})}
	if !restore {
		close(ms.restored)
	}
	return ms
}

// Mount implements api.Mounter.
func (n *Node) Mount(ctx context.Context, req api.MountRequest) (api.MountInfo, error) {
	if err := checkDir(req.Dir); err != nil {
		return api.MountInfo{}, err
	}
	if err := checkName(req.Name); err != nil {
		return api.MountInfo{}, err
	}
	if err := n.mounts.wait(ctx); err != nil {
		return api.MountInfo{}, err
	}
	m, err := n.prepare(ctx, req)
	if err != nil {
		return api.MountInfo{}, err
	}
	if err := n.pin(m.root, req.Name, api.HowMounted); err != nil {
		m.im.Close()
		return api.MountInfo{}, err
	}
	if err := n.mounts.start(ctx, m); err != nil {
		return api.MountInfo{}, mountError(err)
	}
	n.mounts.found(m.Dir())
	if err := n.remember(m); err != nil {
		m.stop()
		<-m.ended
		return api.MountInfo{}, err
	}
	return m.info(), nil
}

// prepare checks a request, loads its flist and makes the mount, which the
// caller starts, or closes its image.
func (n *Node) prepare(ctx context.Context, req api.MountRequest) (*mounted, error) {
	if req.Upper != "" && !req.ReadWrite {
		return nil, fmt.Errorf("%w: an upper directory without a writable mount", api.ErrInvalid)
	}
	if _, err := checkPrefetch(req.Prefetch); err != nil {
		return nil, err
	}
	m := n.newMounted(req, nil)
	if err := mount.Check(req.Dir, n.mountOptions(m)); err != nil { // before anything is fetched
		return nil, mountError(err)
	}
	im, err := n.load(ctx, req.FList)
	if err != nil {
		return nil, err
	}
	m = n.newMounted(req, im)
	if m.Mount, err = mount.New(im, m.src, n.mountOptions(m)); err != nil {
		im.Close()
		return nil, mountError(err)
	}
	return m, nil
}

// newMounted returns what the node knows about a mount of im.
func (n *Node) newMounted(req api.MountRequest, im *flist.Image) *mounted {
	m := &mounted{im: im, req: req, since: time.Now(), ended: make(chan struct{})}
	m.gone = func() { n.mountGone(m) }
	if im != nil {
		m.root, m.req.FList = im.CID(), im.CID().String()
		m.src = n.reading(im.CID())
		m.src.w.from = &origins{}
		m.follow = func(ctx context.Context) {
			if prefetch, err := checkPrefetch(req.Prefetch); err == nil { // else prepare has refused it
				n.follow(ctx, m, im, prefetch)
			}
		}
	}
	return m
}

func (n *Node) mountOptions(m *mounted) mount.Options {
	req := m.req
	opts := mount.Options{
		Dir: req.Dir, NonEmpty: req.NonEmpty, AllowOther: req.AllowOther, SetUID: req.SetUID, Devices: req.Devices,
		ReadWrite: req.ReadWrite, Upper: req.Upper, Private: n.mountsDir(),
		DataDir: n.cfg.Data, Log: n.log, Keep: n.keepConnection(m),
		// The source gives up before, and says whom it asked.
		ReadTimeout: n.cfg.ReadTimeout + mountGrace,
	}
	if m.root.Defined() {
		opts.Ahead = reader{n.aheadOf(m.root), &m.replaying}
		opts.Local = nearby{n}
	}
	return opts
}

// mountGone is called when m has ended. One that somebody unmounted is not to
// come back; one that the node took away because it stops is.
func (n *Node) mountGone(m *mounted) {
	n.letGo(m)
	if m.err != nil || m.detached.Load() || n.mounts.stopping() {
		return
	}
	if _, err := n.forget(m.Dir()); err != nil {
		n.log.Warn("mount will come back at the next start", "mount", m.Dir(), "err", err)
	}
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
// away again. Its image is closed when m has ended, or cannot begin.
func (ms *mounts) start(ctx context.Context, m *mounted) error {
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the request
	beside, leave := context.WithCancel(runCtx)
	m.stop, m.leave = stop, leave
	if err := ms.add(m); err != nil {
		stop()
		leave()
		m.im.Close()
		return err
	}
	go func() { // counted in ms.run by add
		defer ms.run.Done()
		defer stop()
		followed := make(chan struct{})
		go func() {
			defer close(followed)
			m.follow(beside)
		}()
		m.err = m.Run(runCtx)
		leave()
		<-followed
		m.im.Close()
		m.gone()
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
	for other := range ms.all {
		if other.Dir() == m.Dir() && !other.detached.Load() {
			return fmt.Errorf("mount point %s: this node is mounting there already: %w", m.Dir(), api.ErrBusy)
		}
	}
	ms.all[m] = true
	ms.run.Add(1)
	return nil
}

func (ms *mounts) remove(m *mounted) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.all, m)
	if m.err != nil && ms.closed {
		ms.failed = append(ms.failed, m.err)
	}
}

// stopping reports whether close was called.
func (ms *mounts) stopping() bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.closed
}

// close takes all mounts away and returns when they are gone. With handOver
// those that have a keeper stay, and only what goes on beside them ends.
func (ms *mounts) close(handOver bool) error {
	ms.mu.Lock()
	ms.closed = true
	ms.mu.Unlock()
	var going []*mounted
	all := ms.list()
	for _, m := range all {
		if handOver && m.kept() {
			m.leave()
			continue
		}
		m.stop()
		going = append(going, m)
	}
	for _, m := range going {
		<-m.ended
	}
	if len(going) == len(all) {
		ms.run.Wait()
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	err := errors.Join(ms.failed...)
	ms.failed = nil
	return err
}

// kept reports whether somebody keeps m's connection, so that another process
// can serve it on.
func (m *mounted) kept() bool {
	select {
	case <-m.Ready():
		return m.key != ""
	default:
		return false
	}
}

// list returns the mounts in the order of their directories.
func (ms *mounts) list() []*mounted {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	out := make([]*mounted, 0, len(ms.all))
	for m := range ms.all {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *mounted) int { return strings.Compare(a.Dir(), b.Dir()) })
	return out
}

func (ms *mounts) uses(root cid.Cid) bool {
	return slices.ContainsFunc(ms.list(), func(m *mounted) bool { return m.root.Equals(root) })
}

// Unmount implements api.Mounter. It also clears a stale mount that a node
// which died has left, and forgets one that could not be brought back.
func (n *Node) Unmount(ctx context.Context, dir string, force bool) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	if err := n.mounts.wait(ctx); err != nil {
		return err
	}
	if err := mount.Unmount(dir, force); err != nil {
		if errors.Is(err, mount.ErrNotMounted) {
			if known, ferr := n.forget(dir); known || ferr != nil {
				return ferr
			}
		}
		return mountError(err)
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	for _, m := range n.mounts.list() {
		if m.Dir() != resolved || m.detached.Load() {
			continue
		}
		if force { // it lives on while it is used
			m.detached.Store(true)
			continue
		}
		select {
		case <-m.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	_, err = n.forget(resolved)
	return err
}

// Mounts implements api.Mounter.
func (n *Node) Mounts(ctx context.Context) ([]api.MountInfo, error) {
	if err := n.mounts.wait(ctx); err != nil {
		return nil, err
	}
	infos := n.mounts.missing()
	for _, m := range n.mounts.list() {
		infos = append(infos, m.info())
	}
	slices.SortStableFunc(infos, func(a, b api.MountInfo) int { return strings.Compare(a.Dir, b.Dir) })
	if infos == nil {
		infos = []api.MountInfo{}
	}
	return infos, nil
}

func (m *mounted) info() api.MountInfo {
	s := m.Stats()
	info := api.MountInfo{Dir: m.Dir(), FList: m.root.String(), Name: m.req.Name, Since: m.since.UTC().Truncate(time.Second),
		ReadWrite: m.req.ReadWrite, Upper: m.req.Upper, Detached: m.detached.Load(),
		BytesRead: s.BytesRead, ReadErrors: s.ReadErrors, Requests: s.Requests, Chunks: m.src.w.from.counts()}
	for _, r := range s.Slowest {
		info.Slowest = append(info.Slowest, api.SlowRead{Path: r.Path, Offset: r.Offset,
			Millis: float64(r.Took.Microseconds()) / 1000, At: r.At.UTC(), Failed: r.Failed})
	}
	return info
}
