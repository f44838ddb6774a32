package mount_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/mount"
)

func TestVirtiofsSocketOfOthersIsLeftAlone(t *testing.T) {
	m := newMemory()
	im, _, _ := twoFiles(t, m)
	dir := t.TempDir()
	file, busy := filepath.Join(dir, "file"), filepath.Join(dir, "busy")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, socket := range []string{file, busy} {
		if err := mount.ServeVirtiofs(context.Background(), im, m, socket, mount.Options{}); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: %v", socket, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

// serveMachines makes the test binary a process that serves an empty image on
// the socket it names, until it is killed: go-fuse's server never ends.
const serveMachines = "FLISTNODE_TEST_VIRTIOFS"

func serveVirtiofs(socket string) {
	m := newMemory()
	im, err := emptyImage(m)
	if err == nil {
		err = mount.ServeVirtiofs(context.Background(), im, m, socket, mount.Options{})
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func emptyImage(m *memory) (*flist.Image, error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b, err := flist.NewBuilder(m, flist.BuilderOptions{TempDir: dir})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if err := b.Root(flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o755}}); err != nil {
		return nil, err
	}
	for _, more := b.NextDir(); more; _, more = b.NextDir() {
		continue // there is nothing in it
	}
	c, _, err := b.Finish(context.Background())
	if err != nil {
		return nil, err
	}
	return flist.Load(context.Background(), m, c)
}

// machine is the other end of a vhost-user socket.
type machine struct {
	*net.UnixConn
	t *testing.T
}

// send sends a request and returns the answer, if it wants one.
func (m machine) send(request uint32, answered bool, payload []byte, fds ...int) []byte {
	m.t.Helper()
	b := binary.NativeEndian.AppendUint32(nil, request)
	b = binary.NativeEndian.AppendUint32(b, 1)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(payload)))
	if _, _, err := m.WriteMsgUnix(append(b, payload...), unix.UnixRights(fds...), nil); err != nil {
		m.t.Fatal(err)
	}
	if !answered {
		return nil
	}
	m.SetReadDeadline(time.Now().Add(30 * time.Second))
	head := make([]byte, 12)
	if _, err := io.ReadFull(m, head); err != nil {
		m.t.Fatalf("answer to request %d: %v", request, err)
	}
	body := make([]byte, binary.NativeEndian.Uint32(head[8:]))
	if _, err := io.ReadFull(m, body); err != nil || binary.NativeEndian.Uint32(head) != request {
		m.t.Fatalf("answer to request %d: %x %x, %v", request, head, body, err)
	}
	return body
}

func words(list ...uint64) (b []byte) {
	for _, w := range list {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

// TestMachineMayStopItsDeviceAndStartItAgain does what QEMU does when a machine
// boots, reboots and is ended, and then comes as the next machine.
func TestMachineMayStopItsDeviceAndStartItAgain(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "vm-") // t.TempDir's path can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "sock")
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serveMachines+"="+socket, "TMPDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	const size = 1 << 20
	memory, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(memory, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memory)
	for range 2 {
		var conn *net.UnixConn
		eventually(t, "the socket is served", func() bool {
			conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
			return err == nil
		})
		m := machine{conn, t}
		if features := m.send(1, true, nil); len(features) != 8 {
			t.Errorf("features: %x", features)
		}
		m.send(37, false, words(0, 0x1000, size, 0x7000_0000, 0), memory) // memory at 0x1000, here at 0x70000000
		for life := range uint32(3) {
			var events []int
			for ring := range uint64(2) {
				event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
				if err != nil {
					t.Fatal(err)
				}
				at := 0x7000_0000 + ring*0x10000
				m.send(8, false, words(ring|64<<32))                       // 64 entries
				m.send(10, false, words(ring|uint64(life)<<32))            // from the first
				m.send(9, false, words(ring, at, at+0x4000, at+0x2000, 0)) // where the ring is
				m.send(12, false, words(ring), event)                      // what wakes the device
				m.send(13, false, words(ring), event)                      // what wakes the machine
				m.send(18, false, words(ring|1<<32))                       // on
				events = append(events, event)
			}
			for ring := range uint32(2) {
				answer := m.send(11, true, words(uint64(ring))) // off
				if len(answer) != 8 || binary.NativeEndian.Uint32(answer) != ring || binary.NativeEndian.Uint32(answer[4:]) != life {
					t.Errorf("ring %d ends with %x", ring, answer)
				}
			}
			for _, event := range events {
				if flags, err := unix.FcntlInt(uintptr(event), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
					t.Errorf("a descriptor of the machine blocks now: flags %x, %v", flags, err)
				}
				unix.Close(event)
			}
		}
		m.send(17, true, nil) // all is as it was before
		conn.Close()
	}
}
