package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes the control socket: its directory is made with mode 0700 if
// missing, the socket has mode 0600, and only processes of this user and of
// root are let in. A socket left behind by a daemon that died is replaced; one
// that answers is an error that matches ErrInUse.
func Listen(socket string) (net.Listener, error) {
	if len(socket) >= maxSocketPath {
		return nil, fmt.Errorf("%w: control socket path of %d bytes, the system allows %d: choose a shorter one: %s",
			ErrInvalid, len(socket), maxSocketPath-1, socket)
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of the control socket: %w", err)
	}
	if err := removeDead(socket); err != nil {
		return nil, err
	}
	l, err := listenPrivate(socket)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket %s: %w", socket, err)
	}
	own := uint32(os.Geteuid())
	return &ownerListener{UnixListener: l, path: socket, may: func(uid uint32) bool { return uid == own || uid == 0 }}, nil
}

const maxSocketPath = 108 // sun_path, with the closing zero

// removeDead removes a socket nobody listens on.
func removeDead(socket string) error {
	st, err := os.Lstat(socket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at control socket: %w", err)
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: %s is not a socket: remove it or choose another control socket", fs.ErrExist, socket)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := dialUnix(ctx, socket)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%w: another daemon answers on %s", ErrInUse, socket)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: control socket %s: %w", ErrInUse, socket, err)
	}
	if err := os.Remove(socket); err != nil {
		return fmt.Errorf("remove the control socket of a dead daemon: %w", err)
	}
	return nil
}

// listenPrivate listens on a socket that nobody else could open at any moment:
// it is made under another name, given its mode, and renamed.
func listenPrivate(socket string) (*net.UnixListener, error) {
	tmp := socket + "~"
	if len(tmp) >= maxSocketPath {
		tmp = socket[:len(socket)-1] + "~"
	}
	_ = os.Remove(tmp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, socket)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(tmp)
		return nil, err
	}
	return l, nil
}

// ownerListener accepts connections of those users who may connect.
type ownerListener struct {
	*net.UnixListener
	path string // where the socket is; the listener knows it under its first name
	may  func(uid uint32) bool
}

// Accept returns the next connection of somebody who may connect.
func (l *ownerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(conn); err == nil && l.may(uid) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// Serve answers on l with h until ctx ends, then cancels what is under way,
// waits for it, and removes the socket. The error is nil after such an end.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := newServer(h, log)
	stopped := make(chan error, 1)
	unhook := context.AfterFunc(ctx, func() {
		if u, ok := l.(*ownerListener); ok {
			_ = os.Remove(u.path) // while it still is ours: nobody replaces a socket that answers
		}
		stopped <- closeServer(srv)
	})
	err := srv.Serve(l)
	if unhook() { // Serve failed by itself
		return fmt.Errorf("serve control socket: %w", errors.Join(err, closeServer(srv)))
	}
	return <-stopped
}

// newServer returns a server for h whose requests end when it is closed.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	base, cancel := context.WithCancel(context.Background())
	srv := &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	if log != nil {
		srv.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	}
	srv.RegisterOnShutdown(cancel)
	return srv
}

// closeServer cancels the requests under way and waits a bounded time for them.
func closeServer(srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("wait for commands under way: %w", err), srv.Close())
	}
	return nil
}

// memListener hands one end of a pipe to the server for each dial.
type memListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *memListener) Addr() net.Addr { return memAddr{} }

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "in-process" }
