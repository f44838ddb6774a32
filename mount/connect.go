package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// connect mounts the file system on m.at and returns the connection to the
// kernel: /dev/fuse, opened for this mount. go-fuse could do this, but keeps
// the descriptor to itself.
func (m *Mount) connect(o *fuse.MountOptions) (*os.File, error) {
	dev, err := m.connectDirect(o)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		if helped, herr := m.connectByHelper(o); herr == nil {
			return helped, nil
		} else if !errors.Is(herr, exec.ErrNotFound) {
			return nil, herr
		}
	}
	return dev, err
}

// connectDirect is mount(2), for those who may. The options are described in
// the kernel's Documentation/filesystems/fuse.
func (m *Mount) connectDirect(o *fuse.MountOptions) (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	dev := os.NewFile(uintptr(fd), "/dev/fuse")
	data := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d,default_permissions",
		fd, unix.S_IFDIR, os.Geteuid(), os.Getegid(), o.MaxWrite)
	if o.AllowOther {
		data += ",allow_other"
	}
	flags := uintptr(unix.MS_RDONLY)
	if !m.opts.SetUID {
		flags |= unix.MS_NOSUID
	}
	if !m.opts.Devices {
		flags |= unix.MS_NODEV
	}
	if err := unix.Mount(o.FsName, m.at(), "fuse."+fsType, flags, data); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

// helperTime bounds the wait for fusermount3.
const helperTime = 10 * time.Second

// connectByHelper lets fusermount3 mount, which may, and which sends the
// descriptor over the socket that _FUSE_COMMFD names.
func (m *Mount) connectByHelper(o *fuse.MountOptions) (*os.File, error) {
	helper, err := exec.LookPath("fusermount3")
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	local, remote := os.NewFile(uintptr(pair[0]), "fusermount3"), os.NewFile(uintptr(pair[1]), "fusermount3")
	defer local.Close()
	options := []string{"ro", "default_permissions", "subtype=" + fsType, "fsname=" + o.FsName, fmt.Sprintf("max_read=%d", o.MaxWrite)}
	if o.AllowOther {
		options = append(options, "allow_other")
	}
	if m.opts.SetUID {
		options = append(options, "suid")
	}
	if m.opts.Devices {
		options = append(options, "dev")
	}
	var said bytes.Buffer
	ctx, stop := context.WithTimeout(context.Background(), helperTime)
	defer stop()
	cmd := exec.CommandContext(ctx, helper, "-o", strings.Join(options, ","), "--", m.at())
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{remote}, &said
	err = cmd.Run()
	remote.Close()
	if err != nil {
		return nil, fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(said.String()))
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(local.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fusermount3: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("fusermount3 sent no descriptor: %w", errors.Join(err, unix.EPROTO))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("fusermount3 sent no descriptor: %w", errors.Join(err, unix.EPROTO))
	}
	return os.NewFile(uintptr(fds[0]), "/dev/fuse"), nil
}

// newServer returns a go-fuse server over an open descriptor, which is the
// server's from then on, also on failure.
func newServer(fs fuse.RawFileSystem, dev *os.File, o *fuse.MountOptions) (*fuse.Server, error) {
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	dev.Close()
	if err != nil {
		return nil, err
	}
	return fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", fd), o)
}

// NoPoll lets the kernel of the mount at dir ask once whether files can be
// polled, through a file that go-fuse makes up, and learn that they cannot. A
// program that reads files of its own mounts through package os calls it once
// they are ready, since Go's runtime polls them and can stop for ever while it
// waits for its own answer. A Mount does not do it by itself: a process that is
// killed while it has a file of its own mount open cannot end, for the kernel
// waits for it to answer the closing.
func NoPoll(dir string) error {
	fd, err := unix.Open(filepath.Join(dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLPRI | unix.POLLOUT}}, 0)
	return err
}
