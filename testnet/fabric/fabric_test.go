package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/testnet/fabric"
)

func newFabric(t *testing.T, sites ...fabric.Site) *fabric.Fabric {
	t.Helper()
	if err := fabric.Available(); err != nil {
		t.Skip("no test network here: ", err)
	}
	f, err := fabric.New(fabric.Config{Sites: sites})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

func host(t *testing.T, f *fabric.Fabric, name string) *fabric.Host {
	t.Helper()
	h, err := f.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func link(t *testing.T, f *fabric.Fabric, name string) *fabric.Link {
	t.Helper()
	l, err := f.Link(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// connect returns both ends of a TCP connection from a to b.
func connect(t *testing.T, a, b *fabric.Host) (net.Conn, net.Conn) {
	t.Helper()
	var l net.Listener
	err := b.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp4", net.JoinHostPort(b.Addr().String(), "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var near net.Conn
	err = a.Do(func() (err error) {
		near, err = (&net.Dialer{Timeout: 20 * time.Second}).DialContext(t.Context(), "tcp4", l.Addr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// send sends size bytes from one end to the other and returns how long it took.
func send(t *testing.T, from, to net.Conn, size int64) time.Duration {
	t.Helper()
	began := time.Now()
	go func() { _, _ = io.CopyN(from, zeros{}, size) }()
	_ = to.SetReadDeadline(began.Add(time.Minute))
	if _, err := io.CopyN(io.Discard, to, size); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestHostsOfDifferentSitesReachEachOther(t *testing.T) {
	f := newFabric(t,
		fabric.Site{Name: "a", Hosts: []string{"a1", "a2"}},
		fabric.Site{Name: "b", Hosts: []string{"b1"}, Uplink: fabric.Shape{Delay: 20 * time.Millisecond}})
	for _, pair := range [][2]string{{"a1", "a2"}, {"a1", "b1"}, {"b1", "a2"}} {
		near, far := connect(t, host(t, f, pair[0]), host(t, f, pair[1]))
		send(t, near, far, 1<<20)
		send(t, far, near, 1<<20)
	}
	c, err := link(t, f, "b").Counters()
	if err != nil {
		t.Fatal(err)
	}
	if c.SentBytes < 2<<20 || c.ReceivedBytes < 2<<20 {
		t.Errorf("uplink of b counted %+v, want at least 2 MiB each way", c)
	}
}

func TestLinkIsNotFasterThanItsRate(t *testing.T) {
	const rate, size = 40e6, 2 << 20
	f := newFabric(t, fabric.Site{Name: "a", Hosts: []string{"a1", "a2"}, Link: fabric.Shape{BitsPerSecond: rate}})
	near, far := connect(t, host(t, f, "a1"), host(t, f, "a2"))
	floor := time.Duration(float64(size-256<<10) * 8 / rate * float64(time.Second)) // the bucket is full at first
	for _, dir := range [][2]net.Conn{{near, far}, {far, near}} {
		if took := send(t, dir[0], dir[1], size); took < floor {
			t.Errorf("%d bytes took %s at 40 Mbit/s, want at least %s", size, took, floor)
		}
	}
}

// A packet of 64 KiB that stands for many frames is counted by a queue with
// the headers of all of them.
func TestLinkDoesNotTakePacketsApart(t *testing.T) {
	const segment, segments = 1448, 45 // 65,160 bytes
	f := newFabric(t, fabric.Site{Name: "a", Hosts: []string{"a1", "a2"}, Link: fabric.Shape{BitsPerSecond: 100e6}})
	a, b := host(t, f, "a1"), host(t, f, "a2")
	var to, from net.PacketConn
	err := errors.Join(
		b.Do(func() (err error) {
			to, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", net.JoinHostPort(b.Addr().String(), "0"))
			return err
		}),
		a.Do(func() (err error) {
			from, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", net.JoinHostPort(a.Addr().String(), "0"))
			return err
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	defer from.Close()
	sender, err := from.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	if err := sender.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment)
	}); err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	message := func() {
		if _, err := from.WriteTo(make([]byte, segments*segment), to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_ = to.SetReadDeadline(time.Now().Add(20 * time.Second))
		for range segments {
			if n, _, err := to.ReadFrom(make([]byte, 2*segment)); err != nil || n != segment {
				t.Fatalf("%d bytes came, error %v, want %d", n, err, segment)
			}
		}
	}
	message() // and what it takes to know the address
	before := receivedPackets(t, b)
	message()
	if n := receivedPackets(t, b) - before; n >= segments {
		t.Errorf("one packet of %d frames came as %d", segments, n)
	}
}

// receivedPackets returns how many packets came in through the host's link.
func receivedPackets(t *testing.T, h *fabric.Host) (n int) {
	t.Helper()
	if err := h.Do(func() error {
		table, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		_, row, found := strings.Cut(string(table), "eth0:")
		fields := strings.Fields(row)
		if !found || len(fields) < 2 {
			return fmt.Errorf("no eth0 in %q", table)
		}
		n, err = strconv.Atoi(fields[1])
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDelayIsAddedBothWays(t *testing.T) {
	const delay = 30 * time.Millisecond
	f := newFabric(t, fabric.Site{Name: "a", Hosts: []string{"a1", "a2"}, Link: fabric.Shape{Delay: delay}})
	near, far := connect(t, host(t, f, "a1"), host(t, f, "a2"))
	go func() { _, _ = io.Copy(far, far) }()
	began := time.Now()
	if _, err := near.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 4*delay {
		t.Errorf("a round trip over two links of %s each way took %s", delay, took)
	}
}

func TestCutLinkIsSilentUntilHealed(t *testing.T) {
	f := newFabric(t,
		fabric.Site{Name: "a", Hosts: []string{"a1"}, Link: fabric.Shape{BitsPerSecond: 100e6}},
		fabric.Site{Name: "b", Hosts: []string{"b1"}})
	near, far := connect(t, host(t, f, "a1"), host(t, f, "b1"))
	for _, name := range []string{"a1", "b"} {
		if err := link(t, f, name).Cut(); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Write([]byte{1}); err != nil {
			t.Fatalf("write over cut link %s: %v", name, err)
		}
		_ = far.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read over cut link %s: %v, want a timeout", name, err)
		}
		if err := link(t, f, name).Heal(); err != nil {
			t.Fatal(err)
		}
		_ = far.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
			t.Fatalf("read over healed link %s: %v", name, err)
		}
	}
	if got := link(t, f, "a1").Shape().BitsPerSecond; got != 100e6 {
		t.Errorf("rate after healing is %d", got)
	}
}

func TestProcessStartedInHostSeesOnlyItsNetwork(t *testing.T) {
	f := newFabric(t, fabric.Site{Name: "a", Hosts: []string{"a1"}})
	h := host(t, f, "a1")
	cmd := exec.CommandContext(t.Context(), "cat", "/proc/net/dev")
	var out strings.Builder
	cmd.Stdout = &out
	if err := h.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), ":"); got != 2 || !strings.Contains(out.String(), "eth0:") {
		t.Errorf("interfaces of a host, want lo and eth0:\n%s", out.String())
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, sites := range map[string][]fabric.Site{
		"no site":       nil,
		"same name":     {{Name: "a", Hosts: []string{"a"}}},
		"bad name":      {{Name: "a", Hosts: []string{"../x"}}},
		"negative rate": {{Name: "a", Link: fabric.Shape{BitsPerSecond: -1}}},
	} {
		if f, err := fabric.New(fabric.Config{Sites: sites}); err == nil {
			f.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

// TestLeftoversOfKilledRunAreRemoved makes a fabric in a process that dies.
func TestLeftoversOfKilledRunAreRemoved(t *testing.T) {
	if err := fabric.Available(); err != nil {
		t.Skip("no test network here: ", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], "-test.run=^TestHelperDies$")
	dir := filepath.Join(t.TempDir(), "flistnode-run")
	if err := os.MkdirAll(filepath.Join(dir, "node"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "FABRIC_TEST_DIE="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the process that should die did not:\n%s", out)
	}
	_, left, _ := strings.Cut(string(out), "namespace ")
	left = strings.TrimSpace(left)
	path := filepath.Join("/run/netns", left)
	if _, err := os.Stat(path); left == "" || err != nil {
		t.Fatalf("the killed process left no namespace %q: %v\n%s", left, err, out)
	}
	if err := fabric.RemoveLeftovers(); err != nil {
		t.Fatal(err)
	}
	if _, err := netns.GetFromName(left); err == nil {
		t.Errorf("namespace %s is still there", left)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the run's directory is still there: %v", err)
	}
}

func TestHelperDies(t *testing.T) {
	dir := os.Getenv("FABRIC_TEST_DIE")
	if dir == "" {
		return // runs only as the child of the test above
	}
	f, err := fabric.New(fabric.Config{Dir: dir, Sites: []fabric.Site{{Name: "a", Hosts: []string{"a1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := f.Host("a1")
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("namespace " + h.Namespace() + "\n")
	p, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Kill()
	select {}
}
