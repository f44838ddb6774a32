package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/virtiofs"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// ServeVirtiofs serves an image to virtual machines over a vhost-user socket,
// one machine after the other, from the same file system as a mount. A socket
// nobody listens on is replaced. Of opts only ReadTimeout and Log count.
//
// go-fuse's server cannot be stopped: ServeVirtiofs returns when ctx ends or the
// socket fails, and the process should end then, too. It also writes to the standard logger;
// whoever wants that elsewhere calls slog.SetDefault before.
func ServeVirtiofs(ctx context.Context, im *flist.Image, src chunk.Source, socket string, opts Options) error {
	opts = opts.withDefaults(im)
	if err := freeSocket(ctx, socket); err != nil {
		return fmt.Errorf("serve %s over virtiofs: %w", opts.FSName, err)
	}
	private, err := os.MkdirTemp("", "flistnode-virtiofs-")
	if err != nil {
		return fmt.Errorf("serve %s over virtiofs: %w", opts.FSName, err)
	}
	defer os.RemoveAll(private)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("serve %s over virtiofs: %w", opts.FSName, err)
	}
	closeSocket := context.AfterFunc(ctx, func() { _ = l.Close() }) // which removes it
	defer func() {
		if closeSocket() {
			_ = l.Close()
		}
	}()
	reads, stop := context.WithCancel(ctx)
	defer stop()
	m := newMount(im, src, opts, socket)
	defer m.ahead.end()
	defer m.near.end()
	fs := &interruptible{RawFileSystem: timed{newFileSystem(reads, m)}, gone: make(chan struct{})}
	r := &relay{inside: filepath.Join(private, "sock"), fs: fs}
	go virtiofs.ServeFS(r.inside, fs, m.fuseOptions()) // ends with the process
	if err := waitListen(ctx, r.inside); err != nil {
		return fmt.Errorf("serve %s over virtiofs: %w", opts.FSName, err)
	}
	m.log.Info("serving virtiofs", "inodes", im.NumInodes())
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve %s over virtiofs: %w", opts.FSName, err)
		}
		if err := r.serve(ctx, conn); err != nil {
			m.log.Warn("virtual machine is served no longer", "err", err)
		}
	}
}

// waitListen waits until go-fuse listens.
func waitListen(ctx context.Context, socket string) error {
	for deadline := time.Now().Add(renewTimeout); ; {
		_, err := os.Stat(socket)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// freeSocket makes sure that socket can be listened on.
func freeSocket(ctx context.Context, path string) error {
	if conn, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close() // nothing was written
		return fmt.Errorf("somebody listens on %s already: %w", path, os.ErrExist)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s is in the way, and not a socket: %w", path, os.ErrExist)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return err
	}
	return l.Close() // which removes it
}

// interruptible is a file system whose waiting reads can be ended, all at once.
type interruptible struct {
	fuse.RawFileSystem
	active atomic.Int64

	mu   sync.Mutex
	gone chan struct{}
}

// Read implements fuse.RawFileSystem. Linux interrupts no single read over
// virtiofs, so the channel it is called with does not matter.
func (f *interruptible) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.mu.Lock()
	gone := f.gone
	f.mu.Unlock()
	f.active.Add(1)
	defer f.active.Add(-1)
	return f.RawFileSystem.Read(gone, in, buf)
}

// settleTime is what go-fuse takes to write an answer into the machine's
// memory, by a good margin. It does not tell when it has.
const settleTime = 20 * time.Millisecond

// interrupt gives the reads that wait some time, ends those that still do, and
// returns when all have ended.
func (f *interruptible) interrupt(patience time.Duration) {
	f.wait(patience)
	f.mu.Lock()
	close(f.gone)
	f.gone = make(chan struct{})
	f.mu.Unlock()
	f.wait(renewTimeout)
	time.Sleep(settleTime)
}

func (f *interruptible) wait(atMost time.Duration) {
	for deadline := time.Now().Add(atMost); f.active.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}
