package fabric

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tunDevice = "/dev/net/tun"
	// wireFrames is how many frames are on their way in one direction before
	// more are dropped: 100 ms at 500 Mbit/s.
	wireFrames = 4096
	frameBytes = 2048 // more than an interface's 1500 and the header
)

// wire carries frames between two TAP devices and lets each arrive a while
// after it was sent.
type wire struct {
	ends  [2]*os.File
	delay time.Duration // one way
	wg    sync.WaitGroup
}

// newWire makes the devices at both ends and starts to carry.
func newWire(near, far end, delay time.Duration) (*wire, error) {
	w := &wire{delay: delay}
	var err error
	if w.ends[0], err = openTAP(near); err != nil {
		return nil, err
	}
	if w.ends[1], err = openTAP(far); err != nil {
		return nil, errors.Join(err, w.ends[0].Close())
	}
	w.carry(w.ends[0], w.ends[1])
	w.carry(w.ends[1], w.ends[0])
	return w, nil
}

// openTAP makes the device of e, which lives as long as the file is open.
func openTAP(e end) (f *os.File, err error) {
	err = e.space.do(func() error {
		fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq(e.name)
		if err == nil {
			ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), e.name) // after the ioctl: it is polled from now on
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make TAP device %s: %w", e.name, err)
	}
	return f, nil
}

// frame is a frame on its way.
type frame struct {
	due  time.Time
	data []byte
}

// carry moves frames from one device to the other until one is closed.
func (w *wire) carry(from, to *os.File) {
	way := make(chan frame, wireFrames)
	pool := sync.Pool{New: func() any { b := make([]byte, frameBytes); return &b }}
	w.wg.Go(func() {
		defer close(way)
		for {
			buf := pool.Get().(*[]byte)
			n, err := from.Read(*buf)
			if err != nil {
				return
			}
			select {
			case way <- frame{time.Now().Add(w.delay), (*buf)[:n]}:
			default: // too many: the wire drops it
				pool.Put(buf)
			}
		}
	})
	w.wg.Go(func() {
		for f := range way {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // a frame that cannot be delivered is lost
			b := f.data[:frameBytes]
			pool.Put(&b)
		}
	})
}

func (w *wire) close() error {
	err := errors.Join(w.ends[0].Close(), w.ends[1].Close())
	w.wg.Wait()
	return err
}
