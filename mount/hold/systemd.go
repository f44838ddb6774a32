package hold

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Systemd is the file descriptor store of the service manager, described in
// sd_pid_notify_with_fds(3) and systemd.service(5). It hands the descriptors
// to the next process of the service.
type Systemd struct {
	socket string
	given  map[string]*os.File
}

// firstFD is the first of the descriptors that systemd hands over.
const firstFD = 3

// FromSystemd returns the store if this process is a service that has one
// (FileDescriptorStoreMax=, systemd 254 or later), else nil. It must be called
// once, before descriptors are opened that a child may inherit.
func FromSystemd() *Systemd {
	size, _ := strconv.Atoi(os.Getenv("FDSTORE"))
	s := &Systemd{socket: os.Getenv("NOTIFY_SOCKET"), given: make(map[string]*os.File)}
	if s.socket == "" || size <= 0 {
		return nil
	}
	if pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID")); pid != os.Getpid() {
		return s
	}
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := range min(n, len(names)) {
		unix.CloseOnExec(firstFD + i)
		s.given[names[i]] = os.NewFile(uintptr(firstFD+i), names[i])
	}
	return s
}

// Keep hands over a duplicate of f.
func (s *Systemd) Keep(key string, f *os.File) error {
	return s.notify("FDSTORE=1\nFDNAME="+key, f)
}

// Drop lets systemd close a descriptor.
func (s *Systemd) Drop(key string) error { return s.notify("FDSTOREREMOVE=1\nFDNAME="+key, nil) }

// Take returns the descriptors that systemd has handed to this process. They
// are the caller's.
func (s *Systemd) Take() (map[string]*os.File, error) {
	given := s.given
	s.given = nil
	return given, nil
}

// Close does nothing.
func (s *Systemd) Close() error { return nil }

func (s *Systemd) notify(state string, f *os.File) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket for NOTIFY_SOCKET: %w", err)
	}
	defer unix.Close(fd)
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	if err := unix.Sendmsg(fd, []byte(state), oob, &unix.SockaddrUnix{Name: s.socket}, 0); err != nil {
		return fmt.Errorf("write to NOTIFY_SOCKET: %w", err)
	}
	return nil
}
