// Package mount shows an flist as a read-only FUSE file system.
//
// It answers the kernel straight from the tables of a flist.Image: a FUSE
// node is an inode number plus one, so nothing is kept per file, nothing is
// locked, and look-ups do not allocate. The content never changes, so the
// kernel may keep all it has seen: names, names that do not exist, attributes,
// directories, symlinks and pages. Content comes from a chunk.Source; the
// package neither fetches, stores nor caches chunks, and trusts the Source to
// have verified them. Bytes that cannot be had are an error (EIO), never
// zeros.
//
// A Mount may be used by many goroutines at once. Access the mounted files
// from the serving process only where a blocked read cannot block the Source.
package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Options say where and how to mount.
type Options struct {
	Dir        string // the mount point; an existing directory
	NonEmpty   bool   // mount even over a directory with entries
	AllowOther bool   // let users other than the mounting one in
	SetUID     bool   // honour setuid bits and file capabilities
	Devices    bool   // let device nodes be opened

	// FSName is what mount(8) shows as the source; "flistnode:" and the CID
	// by default. It must begin with "flistnode:" for Check to know the mount
	// again when it has become stale.
	FSName string

	// ReadTimeout bounds the wait for the chunks of one read; 30 s by
	// default. After it the read fails with EIO.
	ReadTimeout time.Duration

	// ReadAhead is how far the kernel reads ahead of a sequential reader, and
	// how much it reads around a page of a mapped file, in bytes; 128 KiB by
	// default. Only root can set it. SetReadAhead changes it.
	ReadAhead int

	// Ahead gets chunks ahead of sequential readers; its content is not
	// used, so it should be kept where the Source of the mount finds it. Nil:
	// the kernel alone reads ahead.
	Ahead chunk.Source

	// Local gets chunks that are near those just read, without the network; as
	// with Ahead its content is not used. Nil: nothing is unpacked before it is
	// asked for.
	Local chunk.Source

	// DataDir is the node's data directory, in which nothing may be mounted;
	// empty if there is none.
	DataDir string

	// ReadWrite lets changes be made: they go to Upper, an absolute path, or,
	// if that is empty, to a directory that is removed when the mount ends.
	// Upper is made if it does not exist; beside it a directory UPPER.work is.
	ReadWrite bool
	Upper     string

	// Private is a directory for the parts of writable mounts, only for root
	// to see; needed with ReadWrite, and made if it does not exist.
	Private string

	// Keep is called once the file system is mounted, with what another process
	// needs to serve it on when this one dies, or with an error that says why
	// none could. Device is closed when it has returned. Its error fails the
	// mount.
	Keep func(*Connection, error) error

	Log *slog.Logger // slog.Default by default
}

// Defaults of Options.
const (
	DefaultReadTimeout = 30 * time.Second
	DefaultReadAhead   = 128 << 10
)

const (
	fsType   = "flistnode"     // the type is fuse.flistnode
	fsPrefix = fsType + ":"    // what every FSName begins with
	maxRead  = 1 << 20         // bytes of one READ
	inFlight = 128             // readahead requests in flight
	goodbye  = 5 * time.Second // wait for the last request at the end
)

func (o Options) withDefaults(im *flist.Image) Options {
	if o.FSName == "" {
		o.FSName = fsPrefix + im.CID().String()
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = DefaultReadTimeout
	}
	if o.ReadAhead <= 0 {
		o.ReadAhead = DefaultReadAhead
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Mount is one mounted flist.
type Mount struct {
	im    *flist.Image
	src   chunk.Source
	opts  Options
	dir   string // absolute, without symlinks
	log   *slog.Logger
	stats counters
	slow  slowReads

	touched *touches
	ahead   *ahead
	near    *near

	started atomic.Bool
	ready   chan struct{}
	dev     uint64 // device number of the mount; set before ready is closed

	layers     *layers // of a writable mount, else nil; set by Run
	overlayDev uint64  // device number of the overlay

	resumed *resumed // of a Mount made by Resume
}

// at returns where the image is mounted: Dir, or below the overlay.
func (m *Mount) at() string {
	if m.layers != nil {
		return m.layers.lower
	}
	return m.dir
}

// New checks the options and the mount point, as Check does. Nothing is
// mounted before Run. The image must not be closed before Run has returned.
func New(im *flist.Image, src chunk.Source, opts Options) (*Mount, error) {
	opts = opts.withDefaults(im)
	if opts.ReadWrite && opts.Private == "" {
		return nil, errors.New("mount: no directory for the parts of a writable mount given")
	}
	if err := Check(opts.Dir, opts); err != nil {
		return nil, err
	}
	dir, err := resolve(opts.Dir)
	if err != nil {
		return nil, err
	}
	return newMount(im, src, opts, dir), nil
}

func newMount(im *flist.Image, src chunk.Source, opts Options, dir string) *Mount {
	return &Mount{
		im: im, src: src, opts: opts, dir: dir, ready: make(chan struct{}),
		touched: newTouches(im.NumChunks()), ahead: newAhead(im, opts.Ahead), near: newNear(im, opts.Local),
		log: opts.Log.With("mount", dir, "flist", im.CID().String()),
	}
}

// Dir returns the mount point, absolute and without symlinks.
func (m *Mount) Dir() string { return m.dir }

// Ready returns a channel that is closed once the file system is mounted and
// answers.
func (m *Mount) Ready() <-chan struct{} { return m.ready }

// Run mounts and serves. It returns nil once the file system has been
// unmounted and the last process has let go of it, by whomever and however,
// or an error if it could not be mounted. When ctx ends, Run takes the mount
// away itself: processes that still use it are named in the log and get
// ENOTCONN from then on. All goroutines have ended when Run returns. It may
// be called once.
func (m *Mount) Run(ctx context.Context) error {
	if m.started.Swap(true) {
		return errors.New("mount: Run called twice")
	}
	if m.opts.ReadWrite && m.layers == nil {
		var err error
		if m.layers, err = newLayers(m.im, m.opts.Private, m.opts.Upper); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.opts.FSName, m.dir, err)
		}
	}
	if m.layers != nil {
		defer m.layers.remove()
	}
	reads, stop := context.WithCancel(ctx)
	defer m.ahead.end()
	defer m.near.end()
	defer stop()
	fs := timed{newFileSystem(reads, m)}
	served := make(chan struct{})
	serving := false
	serve := func(server *fuse.Server) {
		serving = true
		go func() {
			defer close(served)
			defer fs.im.Close()
			server.Serve()
		}()
	}
	defer func() {
		if !serving {
			fs.im.Close()
		}
	}()
	if m.resumed != nil {
		server, err := m.resumed.serve(fs, m.fuseOptions())
		if err != nil {
			return fmt.Errorf("take over mount %s: %w", m.dir, err)
		}
		serve(server)
	} else if err := m.begin(fs, serve, served); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.opts.FSName, m.dir, err)
	}
	m.log.Info("mounted", "inodes", m.im.NumInodes())
	close(m.ready)
	defer m.watch(reads, stop)()
	select {
	case <-served:
		m.log.Info("unmounted")
		return nil
	case <-ctx.Done():
		return m.takeAway(served)
	}
}

// begin mounts, and returns when the file system answers.
func (m *Mount) begin(fs fuse.RawFileSystem, serve func(*fuse.Server), served <-chan struct{}) error {
	o := m.fuseOptions()
	dev, err := m.connect(o)
	if err != nil {
		return err
	}
	mine, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		dev.Close()
		return errors.Join(err, checkMounts(m.at()))
	}
	kept := os.NewFile(uintptr(mine), "/dev/fuse")
	defer kept.Close()
	server, err := newServer(fs, dev, o)
	if err != nil {
		kept.Close()
		return errors.Join(err, checkMounts(m.at())) // a failure half-way may have left something
	}
	serve(server)
	if err = m.settle(); err == nil {
		err = m.keep(server, kept)
	}
	if err != nil {
		return errors.Join(err, m.takeAway(served))
	}
	return nil
}

// watch starts what a writable mount needs beside it, and returns what ends it.
func (m *Mount) watch(ctx context.Context, stop context.CancelFunc) (end func()) {
	if m.layers == nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.watchOverlay(ctx)
	}()
	return func() {
		stop()
		<-done
	}
}

func (m *Mount) fuseOptions() *fuse.MountOptions {
	return &fuse.MountOptions{
		FsName: m.opts.FSName, Name: fsType, AllowOther: m.opts.AllowOther,
		MaxWrite:      maxRead,
		MaxBackground: inFlight,
		// Nothing changes behind the kernel's back.
		EnableSymlinkCaching: true, ExplicitDataCacheControl: true,
		EnableAcl:         true, // the kernel reads, caches and enforces the ACLs
		ExtraCapabilities: fuse.CAP_NO_OPENDIR_SUPPORT,
		DisableSplice:     true, // chunks are in memory
		Logger:            slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) fuse.Status {
			m.log.Error("panic while answering the kernel", "panic", v, "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
}

// settle waits for the first answer and does what can be done only then.
func (m *Mount) settle() error {
	var st unix.Stat_t
	if err := unix.Stat(m.at(), &st); err != nil {
		return err
	}
	m.dev = st.Dev
	if err := m.setReadAhead(m.opts.ReadAhead); err != nil {
		m.log.Debug("readahead stays at the kernel's default", "err", err)
	}
	if m.layers != nil {
		return m.mountOverlay()
	}
	return nil
}

// SetReadAhead changes Options.ReadAhead while the file system is mounted. It
// does nothing before Ready.
func (m *Mount) SetReadAhead(bytes int) error {
	select {
	case <-m.ready:
		return m.setReadAhead(bytes)
	default:
		return nil
	}
}

func (m *Mount) setReadAhead(bytes int) error {
	bdi := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(m.dev), unix.Minor(m.dev))
	return os.WriteFile(bdi, strconv.AppendInt(nil, int64(bytes>>10), 10), 0)
}

// takeAway ends the mount now, used or not.
func (m *Mount) takeAway(served <-chan struct{}) error {
	if holders := findHolders(m.dir); len(holders) > 0 {
		m.log.Warn("mount is taken away while in use", "holders", describe(holders))
	}
	var err error
	if m.layers != nil {
		if top, terr := topMount(m.dir); terr == nil && top.ours() && top.dev == m.overlayDev {
			err = unmount(m.dir, unix.MNT_DETACH)
		}
	}
	if top, terr := topMount(m.at()); terr == nil && top.ours() && (top.dev == m.dev || m.dev == 0) {
		// MNT_FORCE ends the connection even where other mount namespaces
		// still hold the file system, MNT_DETACH frees the mount point.
		err = errors.Join(err, unmount(m.at(), unix.MNT_FORCE|unix.MNT_DETACH))
	} else {
		err = errors.Join(err, terr)
	}
	if err != nil && !errors.Is(err, ErrNotMounted) {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	select {
	case <-served:
		m.log.Info("unmounted")
		return nil
	case <-time.After(goodbye):
		return fmt.Errorf("unmount %s: another mount namespace, a process or a mount on top keeps the file system until this process ends", m.dir)
	}
}

// Unmount unmounts on request, once Ready. If processes use the mount, or
// something is mounted inside, it changes nothing and returns a *BusyError
// that names them; with lazy it takes the mount out of the tree all the same,
// and those processes are served until they let go. It returns nil if the
// file system is no longer mounted. Run returns some time after Unmount.
func (m *Mount) Unmount(lazy bool) error {
	select {
	case <-m.ready:
	default:
		return fmt.Errorf("unmount %s: it is not mounted yet: end Run's context instead", m.dir)
	}
	top, err := topMount(m.dir)
	if err != nil || top.dev != m.dev && (m.layers == nil || top.dev != m.overlayDev) {
		return err
	}
	return Unmount(m.dir, lazy)
}

// Unmount unmounts the flist that is mounted on dir, by whatever process, also
// one that is gone; see Mount.Unmount. Nothing else is ever unmounted.
func Unmount(dir string, lazy bool) error {
	dir, err := resolve(dir)
	if err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	top, err := topMount(dir)
	if err != nil {
		return err
	}
	if !top.ours() {
		return fmt.Errorf("unmount %s: %w", dir, ErrNotMounted)
	}
	flags := 0
	if lazy {
		flags = unix.MNT_DETACH
	}
	// A process that has just ended may still be letting go.
	for try := range 5 {
		if err = unmount(dir, flags); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(time.Duration(try*10) * time.Millisecond)
	}
	switch {
	case err == nil:
		if lower := top.lower(); lower != "" {
			_ = unmount(lower, unix.MNT_DETACH) // else its process does
		}
		return nil
	case errors.Is(err, unix.EBUSY):
		return &BusyError{Dir: dir, Holders: findHolders(dir), Mounts: mountsBelow(dir)}
	}
	return fmt.Errorf("unmount %s: %w", dir, err)
}
