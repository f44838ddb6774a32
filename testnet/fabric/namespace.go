package fabric

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespace is a named network namespace and a thread that lives in it.
type namespace struct {
	name   string
	handle netns.NsHandle
	nl     *netlink.Handle
	work   chan func()
	ended  chan struct{}
}

// newNamespace makes a namespace and starts its thread.
func newNamespace(name string) (*namespace, error) {
	s := &namespace{name: name, work: make(chan func()), ended: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(s.ended)
		// Never unlocked: the thread is not like others any more and ends with
		// the goroutine. Until then a child's Pdeathsig does not fire.
		runtime.LockOSThread()
		h, err := netns.NewNamed(name)
		s.handle = h
		made <- err
		if err != nil {
			return
		}
		for fn := range s.work {
			fn()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	nl, err := netlink.NewHandleAt(s.handle)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink in namespace %s: %w", name, err), s.close())
	}
	s.nl = nl
	return s, nil
}

// do calls fn on the thread in the namespace and returns its error.
func (s *namespace) do(fn func() error) error {
	err := make(chan error, 1)
	s.work <- func() { err <- fn() }
	return <-err
}

// sysctl writes a value below /proc/sys/net of the namespace.
func (s *namespace) sysctl(name, value string) error {
	return s.do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644) })
}

func (s *namespace) close() error {
	if s.nl != nil {
		s.nl.Close()
	}
	close(s.work)
	<-s.ended
	return errors.Join(netns.DeleteNamed(s.name), s.handle.Close())
}
