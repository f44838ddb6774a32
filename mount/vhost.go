package mount

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// go-fuse's vhost-user server can start a device and no more: it does not
// answer when a machine stops one, as it does when it reboots or ends, and
// does not notice that a machine has gone. A machine waits for ever then. So a
// relay stands between the two: it answers what go-fuse does not know, and
// gives go-fuse a new connection for each time a device is started.

// relay carries the messages of one machine at a time.
type relay struct {
	inside string // go-fuse's socket
	fs     *interruptible

	front, back *net.UnixConn
	memory      []vhostMessage // regions the machine has
	loaded      bool           // go-fuse was told of them
	kicks       map[uint32]int // descriptors that wake go-fuse, by ring
	bases       map[uint32]uint32
}

// serve carries messages until the machine goes.
func (r *relay) serve(ctx context.Context, front *net.UnixConn) error {
	r.front, r.kicks, r.bases = front, map[uint32]int{}, map[uint32]uint32{}
	closeFront := context.AfterFunc(ctx, func() { _ = front.Close() })
	defer func() {
		if closeFront() {
			_ = front.Close()
		}
	}()
	err := r.renew(ctx, 0)
	for err == nil {
		var m vhostMessage
		if m, err = readVhost(front); err == nil {
			err = r.handle(ctx, m)
			m.close()
		}
	}
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		err = nil
	}
	err = errors.Join(err, r.renew(ctx, 0))
	for _, m := range r.memory {
		m.close()
	}
	r.memory = nil
	return err
}

// handle answers a message or hands it on.
func (r *relay) handle(ctx context.Context, m vhostMessage) error {
	switch n := m.request(); {
	case n == vhostGetVringBase:
		if err := r.stop(ctx); err != nil {
			return err
		}
		return r.reply(m, m.word(0), r.bases[m.word(0)])
	case n == vhostSetVringEnable && m.word(1) == 0:
		if err := r.stop(ctx); err != nil {
			return err
		}
		return r.ack(m)
	case n == vhostAddMemReg || n == vhostRemMemReg:
		return r.region(m)
	case n >= vhostSetVringNum && n <= vhostSetVringErr, n == vhostSetVringEnable:
		return r.ring(m)
	}
	return r.pass(m)
}

// stopPatience is how long reads that wait for chunks may go on when a machine
// stops its device: it may be paused and want the answers later.
const stopPatience = 2 * time.Second

// stop ends the device: go-fuse is done with the machine's memory when it
// returns.
func (r *relay) stop(ctx context.Context) error {
	if !r.loaded {
		return nil
	}
	return r.renew(ctx, stopPatience)
}

// region keeps what memory the machine has for the next start of the device.
func (r *relay) region(m vhostMessage) error {
	if i := slices.IndexFunc(r.memory, func(o vhostMessage) bool { return o.region() == m.region() }); i >= 0 {
		r.memory[i].close()
		r.memory = slices.Delete(r.memory, i, i+1)
	}
	if m.request() == vhostRemMemReg {
		return r.ack(m) // go-fuse forgets it with the connection
	}
	if len(r.memory) >= vhostMaxMem {
		return errors.New("too many memory regions")
	}
	kept := vhostMessage{buf: slices.Clone(m.buf)}
	for _, fd := range m.fds {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			kept.close()
			return err
		}
		kept.fds = append(kept.fds, dup)
	}
	r.memory = append(r.memory, kept)
	if !r.loaded {
		return r.ack(m)
	}
	return r.pass(m)
}

// ring hands on what is about one ring.
func (r *relay) ring(m vhostMessage) error {
	ring := m.word(0)
	if ring >= vhostMaxRings {
		return fmt.Errorf("message %d about ring %d", m.request(), ring)
	}
	for ; !r.loaded; r.loaded = true {
		for _, o := range r.memory {
			if _, err := r.ask(o); err != nil {
				return err
			}
		}
	}
	switch m.request() {
	case vhostSetVringNum + 2:
		r.bases[ring] = m.word(1)
	case vhostSetVringKick:
		if len(m.fds) != 1 {
			return fmt.Errorf("ring %d comes with %d descriptors", ring, len(m.fds))
		}
		dup, err := unix.FcntlInt(uintptr(m.fds[0]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if old, ok := r.kicks[ring]; ok {
			unix.Close(old)
		}
		r.kicks[ring] = dup
	}
	return r.pass(m)
}

// pass hands a message to go-fuse and its answer to the machine.
func (r *relay) pass(m vhostMessage) error {
	answer, err := r.ask(m)
	if err == nil && answer.buf != nil {
		_, err = r.front.Write(answer.buf)
	}
	return err
}

// ask hands a message to go-fuse and returns the answer, if it gives any.
func (r *relay) ask(m vhostMessage) (answer vhostMessage, err error) {
	if _, _, err = r.back.WriteMsgUnix(m.buf, unix.UnixRights(m.fds...), nil); err == nil && m.answered() {
		answer, err = readVhost(r.back)
	}
	return answer, err
}

// ack says that what m wants is done.
func (r *relay) ack(m vhostMessage) error {
	if m.flags()&vhostNeedReply == 0 {
		return nil
	}
	return r.reply(m, 0, 0)
}

func (r *relay) reply(m vhostMessage, words ...uint32) error {
	b := vhostHead(m.request(), vhostVersion|vhostReply, uint32(4*len(words)))
	for _, w := range words {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	_, err := r.front.Write(b)
	return err
}

// renewTimeout bounds the wait for go-fuse to let go of a machine's memory.
const renewTimeout = 10 * time.Second

// renew gives the relay a new connection to go-fuse, which takes one at a time:
// once it answers, it is done with the one before. It sees that one's end only
// when its rings wake it. Reads may go on for patience.
func (r *relay) renew(ctx context.Context, patience time.Duration) error {
	r.fs.interrupt(patience)
	if r.back != nil {
		_ = r.back.Close()
	}
	r.loaded = false
	conn, err := new(net.Dialer).DialContext(context.WithoutCancel(ctx), "unix", r.inside)
	if err != nil {
		return err
	}
	r.back = conn.(*net.UnixConn)
	done := make(chan error, 1)
	go func() {
		_ = r.back.SetReadDeadline(time.Now().Add(renewTimeout)) // a socket has deadlines
		_, err := r.ask(vhostMessage{buf: vhostHead(vhostGetFeatures, vhostVersion, 0)})
		done <- errors.Join(err, r.back.SetReadDeadline(time.Time{}))
	}()
	wake := time.NewTicker(2 * time.Millisecond)
	defer wake.Stop()
	for {
		select {
		case err := <-done:
			r.release()
			return err
		case <-wake.C:
			for _, fd := range r.kicks {
				_, _ = unix.Write(fd, vhostHead(1, 0)) // the next tick tries again
			}
		}
	}
}

// release gives the rings' descriptors back as they came: go-fuse makes them
// block, for the machine as well, which then waits for ever on its own.
func (r *relay) release() {
	for ring, fd := range r.kicks {
		_ = unix.SetNonblock(fd, true) // it fails for no descriptor that is open
		unix.Close(fd)
		delete(r.kicks, ring)
	}
}
