package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/hanwen/go-fuse/v2/virtiofs"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// ServeVirtiofs serves an image to virtual machines over a vhost-user socket,
// one machine after the other, from the same file system as a mount. A socket
// nobody listens on is replaced. Of opts only ReadTimeout and Log count.
//
// go-fuse's server cannot be stopped: ServeVirtiofs returns when ctx ends, and
// the process should end then, too. It also writes to the standard logger;
// whoever wants that elsewhere calls slog.SetDefault before.
func ServeVirtiofs(ctx context.Context, im *flist.Image, src chunk.Source, socket string, opts Options) error {
	opts = opts.withDefaults(im)
	if err := freeSocket(ctx, socket); err != nil {
		return fmt.Errorf("serve %s over virtiofs: %w", opts.FSName, err)
	}
	reads, stop := context.WithCancel(ctx)
	defer stop()
	m := newMount(im, src, opts, socket)
	defer m.ahead.end()
	served := make(chan struct{})
	go func() {
		defer close(served)
		virtiofs.ServeFS(socket, timed{newFileSystem(reads, m)}, m.fuseOptions())
	}()
	m.log.Info("serving virtiofs", "inodes", im.NumInodes())
	select {
	case <-ctx.Done():
		os.Remove(socket)
		return nil
	case <-served:
		return fmt.Errorf("serve %s over virtiofs: the socket %s failed", opts.FSName, socket)
	}
}

// freeSocket makes sure that go-fuse, which ends the process if it cannot
// listen, can.
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
