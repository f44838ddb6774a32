package hold

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// store is what a holder process holds.
type store struct {
	mu      sync.Mutex
	files   map[string]*os.File
	callers int
	since   time.Time // when the last caller went
}

// Bounds of a holder.
const (
	maxFiles = 4096
	look     = time.Second // between looks for connections that have ended
)

// Serve is the whole work of the holder process: it holds descriptors for who
// connects to the listening socket, until it has none and nobody is
// connected, or nobody has been for patience. Descriptors whose other side
// has ended (POLLERR) are let go.
func Serve(socket *os.File, patience time.Duration) error {
	l, err := net.FileListener(socket)
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	socket.Close()
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return errors.New("hold: descriptor 3 is not a unix socket")
	}
	s := &store{files: make(map[string]*os.File), since: time.Now()}
	defer s.closeAll()
	var conns sync.WaitGroup
	defer conns.Wait()
	ended := make(chan struct{})
	conns.Go(func() {
		defer func() { _ = l.Close() }() // ends Accept
		s.watch(patience, ended)
	})
	for {
		c, err := ul.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			close(ended)
			return fmt.Errorf("hold: %w", err)
		}
		s.count(1)
		conns.Go(func() {
			defer s.count(-1)
			s.serve(c)
			_ = c.Close() // the caller has gone
		})
	}
}

// watch returns when there is nothing left to do.
func (s *store) watch(patience time.Duration, ended <-chan struct{}) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for !s.done(patience) {
		select {
		case <-tick.C:
		case <-ended:
			return
		}
	}
}

// startTime is how long a holder that has nothing yet waits for its caller.
const startTime = 5 * time.Second

func (s *store) done(patience time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, f := range s.files {
		p := []unix.PollFd{{Fd: int32(f.Fd())}}
		if n, err := unix.Poll(p, 0); err == nil && n == 1 && p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
			f.Close()
			delete(s.files, key)
		}
	}
	if s.callers > 0 {
		return false
	}
	alone := time.Since(s.since)
	return alone > patience || len(s.files) == 0 && alone > min(startTime, patience)
}

func (s *store) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.callers += n
	s.since = time.Now()
}

// serve answers one caller until it goes.
func (s *store) serve(c *net.UnixConn) {
	for {
		m, f, err := receive(c)
		if err != nil {
			return
		}
		if m.Op == opTake {
			err = s.sendAll(c)
		} else {
			err = send(c, s.do(m, f), nil)
		}
		if err != nil {
			return
		}
	}
}

// do keeps or drops, and returns the answer.
func (s *store) do(m message, f *os.File) message {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.files[m.Key]
	switch {
	case m.Op == opKeep && f != nil && (old != nil || len(s.files) < maxFiles):
		s.files[m.Key] = f
	case m.Op == opDrop && f == nil:
		delete(s.files, m.Key)
	default:
		if f != nil {
			f.Close()
		}
		return message{Error: fmt.Sprintf("cannot %q", m.Op)}
	}
	if old != nil {
		old.Close()
	}
	return message{}
}

func (s *store) sendAll(conn *net.UnixConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, f := range s.files {
		if err := send(conn, message{Key: key, More: true}, f); err != nil {
			return err
		}
	}
	return send(conn, message{}, nil)
}

func (s *store) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		f.Close()
	}
}
