// Package hold keeps descriptors for a process that may be killed, so that
// the next one goes on with them: the connections of FUSE mounts, which the
// kernel keeps as long as anybody has the descriptor.
//
// The keeper is systemd, where it offers to (its file descriptor store), else
// a small process of our own, the holder: it has no part in any traffic,
// and ends when it holds nothing and nobody talks to it, or when nobody has
// come back for Patience. What the descriptors are for, the caller knows by
// their keys.
//
// A Holder, the calling side of the process, may be used by many goroutines.
package hold

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long a holder waits for the next process after the last one
// has gone. Readers of a mount that nobody serves wait so long, and then fail.
const Patience = 2 * time.Minute

// socketName is the holder's socket in the directory given to Open.
const socketName = "hold.sock"

// The words of the protocol: one JSON message a packet, each answered by one;
// after take by one for each descriptor and one more. Holder and caller may be
// of different versions, so words may be added but not changed.
const (
	opKeep = "keep" // with a descriptor; replaces what has the key
	opDrop = "drop" // close the descriptor
	opTake = "take" // send all descriptors, and keep them
)

type message struct {
	Op    string `json:"op,omitempty"`
	Key   string `json:"key,omitempty"`
	More  bool   `json:"more,omitempty"` // a descriptor comes with this message, more may follow
	Error string `json:"error,omitempty"`
}

// maxMessage and maxKey are bounds in bytes.
const (
	maxMessage = 4 << 10
	maxKey     = 255
)

// Holder is a connection to the holder of a directory.
type Holder struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

// Open connects to the holder of dir, an existing directory that only this
// user may enter. If there is none it starts one: command is run with the
// listening socket as descriptor 3, for Serve. With no command the error
// matches os.ErrNotExist or syscall.ECONNREFUSED.
func Open(ctx context.Context, dir string, command []string) (*Holder, error) {
	// By way of the descriptor, since the path may be too long for a socket.
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("holder of mounts: %w", err)
	}
	defer d.Close()
	addr := &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName), Net: "unixpacket"}
	conn, err := net.DialUnix("unixpacket", nil, addr)
	gone := errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
	if gone && len(command) > 0 {
		if err := start(ctx, filepath.Join(dir, socketName), addr, command); err != nil {
			return nil, fmt.Errorf("start holder of mounts: %w", err)
		}
		conn, err = net.DialUnix("unixpacket", nil, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("reach holder of mounts: %w", err)
	}
	return &Holder{conn: conn}, nil
}

// start runs command with a listening socket. The process is in a session of
// its own, so that nothing that is sent to ours ends it.
func start(ctx context.Context, path string, addr *net.UnixAddr, command []string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unixpacket", addr)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), command[0], command[1:]...)
	cmd.Dir, cmd.ExtraFiles = "/", []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release() // it outlives us
}

// Keep hands over a duplicate of f under a key of 1 to 255 bytes.
func (h *Holder) Keep(key string, f *os.File) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("hold %q: the key is empty or too long", key)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ask(message{Op: opKeep, Key: key}, f)
}

// Drop lets the holder close a descriptor; it does nothing if there is none of
// that key.
func (h *Holder) Drop(key string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ask(message{Op: opDrop, Key: key}, nil)
}

func (h *Holder) ask(m message, f *os.File) error {
	if err := h.deadline(); err != nil {
		return err
	}
	if err := send(h.conn, m, f); err != nil {
		return fmt.Errorf("ask holder to %s: %w", m.Op, err)
	}
	a, _, err := receive(h.conn)
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return fmt.Errorf("ask holder to %s: %w", m.Op, err)
	}
	return nil
}

// Take returns duplicates of all descriptors by their keys. They are the
// caller's; the holder keeps its own.
func (h *Holder) Take() (map[string]*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.deadline(); err != nil {
		return nil, err
	}
	if err := send(h.conn, message{Op: opTake}, nil); err != nil {
		return nil, fmt.Errorf("ask holder to %s: %w", opTake, err)
	}
	files := make(map[string]*os.File)
	for {
		m, f, err := receive(h.conn)
		switch {
		case err != nil || m.Error != "":
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("ask holder to %s: %w", opTake, errors.Join(err, errors.New(m.Error)))
		case !m.More:
			return files, nil
		case f != nil:
			files[m.Key] = f
		}
	}
}

// answerTime bounds the wait for the holder, which does nothing that takes
// time.
const answerTime = 10 * time.Second

func (h *Holder) deadline() error { return h.conn.SetDeadline(time.Now().Add(answerTime)) }

// Close ends the connection. The holder keeps what it has.
func (h *Holder) Close() error { return h.conn.Close() }

// send writes one message, with f if it is not nil.
func send(c *net.UnixConn, m message, f *os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// receive reads one message, and the descriptor that may come with it.
func receive(c *net.UnixConn) (message, *os.File, error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return message{}, nil, err
	}
	f, err := descriptor(oob[:oobn])
	if err != nil {
		return message{}, nil, err
	}
	var m message
	if flags&unix.MSG_TRUNC != 0 || json.Unmarshal(b[:n], &m) != nil {
		if f != nil {
			f.Close()
		}
		return message{}, nil, errors.New("not a message of a holder")
	}
	return m, f, nil
}

// descriptor returns the one descriptor of a control message, if there is one.
func descriptor(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var file *os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return file, err
		}
		for _, fd := range fds {
			if file != nil {
				_ = unix.Close(fd)
				continue
			}
			file = os.NewFile(uintptr(fd), "held")
		}
	}
	return file, nil
}
