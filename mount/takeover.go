package mount

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// A FUSE connection lives as long as anybody has its descriptor. When the
// process that serves it dies while another one holds a duplicate, readers
// wait; a third process that gets the duplicate can serve them. It must know
// what the kernel and the first one have agreed on at the beginning (INIT),
// and lets the kernel send again what the first one has read and not answered
// (FUSE_NOTIFY_RESEND, Linux 6.9). Nothing else is lost, since nothing else
// is kept: node IDs are inode numbers.

// Connection is what another process needs to serve a mount on.
type Connection struct {
	Device *os.File // /dev/fuse
	State  []byte   // for Resume; at most 64 KiB
}

// state is Connection.State as JSON. Paths are bytes.
type state struct {
	Version    int    `json:"version"`
	FList      string `json:"flist"`
	Dir        []byte `json:"dir"`
	Dev        uint64 `json:"dev"`
	OverlayDev uint64 `json:"overlay_dev,omitempty"`
	MaxWrite   int    `json:"max_write"` // bounds what the kernel sends
	Init       []byte `json:"init"`      // the kernel's INIT request
	Layers     *struct {
		Private, Lower, Upper, Work []byte
		UserXattr                   bool
	} `json:"layers,omitempty"`
}

const stateVersion = 1

// ErrNoResend says that the kernel cannot send requests again.
var ErrNoResend = errors.New("the kernel cannot send unanswered requests again (that takes Linux 6.9)")

// keep hands the connection over for safe keeping, if Options say to whom.
func (m *Mount) keep(server *fuse.Server, dev *os.File) error {
	if m.opts.Keep == nil {
		return nil
	}
	init := server.KernelSettings()
	if init.Flags64()&fuse.CAP_HAS_RESEND == 0 {
		return m.opts.Keep(nil, ErrNoResend)
	}
	s := state{
		Version: stateVersion, FList: m.im.CID().String(), Dir: []byte(m.dir), Dev: m.dev, OverlayDev: m.overlayDev, MaxWrite: maxRead,
		Init: unsafe.Slice((*byte)(unsafe.Pointer(init)), unsafe.Sizeof(*init)),
	}
	if l := m.layers; l != nil {
		s.Layers = &struct {
			Private, Lower, Upper, Work []byte
			UserXattr                   bool
		}{[]byte(l.private), []byte(l.lower), []byte(l.upper), []byte(l.work), l.userXattr}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return m.opts.Keep(&Connection{Device: dev, State: b}, nil)
}

// Resume returns a Mount that goes on serving a connection whose process has
// gone. Of opts it takes what does not say where to mount. The Connection's
// Device belongs to the Mount, and is closed if Resume fails.
func Resume(im *flist.Image, src chunk.Source, opts Options, c Connection) (*Mount, error) {
	m, err := resume(im, src, opts, c)
	if err != nil {
		c.Device.Close()
		return nil, fmt.Errorf("take over mount: %w", err)
	}
	return m, nil
}

func resume(im *flist.Image, src chunk.Source, opts Options, c Connection) (*Mount, error) {
	opts = opts.withDefaults(im)
	var s state
	if err := json.Unmarshal(c.State, &s); err != nil {
		return nil, err
	}
	switch {
	case s.Version != stateVersion:
		return nil, fmt.Errorf("its state is of version %d, not %d", s.Version, stateVersion)
	case s.FList != im.CID().String():
		return nil, fmt.Errorf("it shows flist %s, not %s", s.FList, im.CID())
	case !Alive(c.Device):
		return nil, fmt.Errorf("it has ended: %w", unix.ENOTCONN)
	}
	m := newMount(im, src, opts, string(s.Dir))
	m.dev, m.overlayDev, m.resumed = s.Dev, s.OverlayDev, &resumed{dev: c.Device, state: s}
	if l := s.Layers; l != nil {
		m.layers = &layers{private: string(l.Private), lower: string(l.Lower), upper: string(l.Upper), work: string(l.Work), userXattr: l.UserXattr}
	}
	return m, nil
}

// StateOf tells of a Connection's State which flist it shows, where it was
// mounted, and whether it still is there: it is not if it was unmounted lazily.
func StateOf(b []byte) (flist, dir string, attached bool, err error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return "", "", false, fmt.Errorf("state of a mount: %w", err)
	}
	dev := s.Dev
	if s.Layers != nil {
		dev = s.OverlayDev
	}
	on, err := mountsAt(string(s.Dir))
	for _, p := range on {
		attached = attached || p.ours() && p.dev == dev
	}
	return s.FList, string(s.Dir), attached, err
}

// Alive reports whether the mount behind a connection exists.
func Alive(dev *os.File) bool {
	p := []unix.PollFd{{Fd: int32(dev.Fd())}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&(unix.POLLERR|unix.POLLNVAL) == 0
}

// resumed is what a Mount made by Resume serves.
type resumed struct {
	dev   *os.File
	state state
}

// serve returns a server whose INIT was answered by another process. go-fuse
// begins every server with INIT: it gets the kernel's old request, and gives
// its answer, over a socket, in whose place the connection is put then.
func (r *resumed) serve(fs fuse.RawFileSystem, o *fuse.MountOptions) (*fuse.Server, error) {
	defer r.dev.Close()
	o.MaxWrite = r.state.MaxWrite
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	if _, err := unix.Write(pair[1], r.state.Init); err != nil {
		_ = unix.Close(pair[0])
		return nil, err
	}
	server, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", pair[0]), o)
	if err != nil {
		return nil, err // go-fuse has closed it
	}
	if err := unix.Dup3(int(r.dev.Fd()), pair[0], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	return server, resend(pair[0])
}

// notifyResend is FUSE_NOTIFY_RESEND of the kernel's include/uapi/linux/fuse.h.
const notifyResend = 7

// resend has the kernel send again all requests that were read and not
// answered. Nobody may be reading at the time.
func resend(fd int) error {
	// struct fuse_out_header: length, code of the notification, 0.
	msg := binary.NativeEndian.AppendUint32(nil, 16)
	msg = binary.NativeEndian.AppendUint32(msg, notifyResend)
	msg = binary.NativeEndian.AppendUint64(msg, 0)
	if _, err := unix.Write(fd, msg); err != nil {
		return fmt.Errorf("have unanswered requests sent again: %w", err)
	}
	return nil
}
