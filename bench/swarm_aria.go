package bench

import (
	"context"
	"crypto/sha1" //nolint:gosec // BitTorrent v1 names pieces so
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flistnode/flistnode/testnet/fabric"
)

const (
	ariaPort  = 6881
	ariaPiece = 256 << 10
)

// crowdAria lets aria2c do the same over BitTorrent: the first host seeds and
// carries the tracker, the others download and seed on.
func crowdAria(ctx context.Context, fab *fabric.Fabric, opts Options, dir string) (c crowd, err error) {
	hosts := fab.Hosts()
	stop, announce, err := startTracker(ctx, fab)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	torrent := filepath.Join(dir, "content.torrent")
	if err := writeTorrent(torrent, filepath.Join(dir, "content", "file-0000"), announce); err != nil {
		return c, err
	}
	hook := filepath.Join(dir, "complete.sh")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\n: > \"$(dirname \"$3\")/complete\"\n"), 0o700); err != nil {
		return c, err
	}
	var running []*exec.Cmd
	defer func() {
		for _, cmd := range running {
			_ = cmd.Process.Kill() // an error means that it has ended
			_ = cmd.Wait()         // killed
			c.cpu += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		}
	}()
	start := func(h *fabric.Host, into string, args ...string) error {
		cmd := exec.CommandContext(ctx, "aria2c", append(args, "--dir="+into, "--quiet", "--enable-dht=false", "--enable-dht6=false",
			"--bt-enable-lpd=false", "--disable-ipv6", "--bt-max-peers=0", "--bt-request-peer-speed-limit=1000M", "--seed-ratio=0.0",
			"--file-allocation=none", fmt.Sprintf("--listen-port=%d", ariaPort), "--on-bt-download-complete="+hook, "--no-conf", torrent)...)
		log, err := os.Create(filepath.Join(dir, h.Name()+".log"))
		if err != nil {
			return err
		}
		defer log.Close() // the process has its own descriptor
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if err := h.Do(cmd.Start); err != nil {
			return err
		}
		running = append(running, cmd)
		return nil
	}
	if err := start(hosts[0], filepath.Join(dir, "content"), "--bt-seed-unverified=true"); err != nil {
		return c, err
	}
	if err := waitPort(ctx, hosts[0]); err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, hosts[0].Name()+".log")) // the error is told anyway
		return c, fmt.Errorf("%w\n%s", err, said)
	}
	began := time.Now()
	waiting := map[string]bool{}
	for _, h := range hosts[1:] {
		into := filepath.Join(dir, "aria-"+h.Name())
		waiting[filepath.Join(into, "complete")] = true
		if err := start(h, into); err != nil {
			return c, err
		}
	}
	c.seconds, err = waitFiles(ctx, waiting, began)
	return c, err
}

// waitPort waits until the seed listens.
func waitPort(ctx context.Context, h *fabric.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := h.Do(func() error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", h.Addr(), ariaPort))
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("aria2c does not listen: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// waitFiles waits until all files exist and returns when each came. It waits as
// long as ctx lasts.
func waitFiles(ctx context.Context, waiting map[string]bool, began time.Time) (seconds []float64, err error) {
	for len(waiting) > 0 {
		for path := range waiting {
			if _, err := os.Stat(path); err == nil {
				delete(waiting, path)
				seconds = append(seconds, time.Since(began).Seconds())
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d nodes are not complete: %w", len(waiting), ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return seconds, nil
}

// writeTorrent writes a BitTorrent v1 metainfo file (BEP 3) of one file.
func writeTorrent(path, content, announce string) error {
	f, err := os.Open(content)
	if err != nil {
		return err
	}
	defer f.Close()
	var pieces []byte
	var size int64
	for buf := make([]byte, ariaPiece); ; {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			sum := sha1.Sum(buf[:n]) //nolint:gosec // see the import
			pieces, size = append(pieces, sum[:]...), size+int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	text := func(s string) string { return fmt.Sprintf("%d:%s", len(s), s) }
	info := "d" + text("length") + fmt.Sprintf("i%de", size) + text("name") + text(filepath.Base(content)) +
		text("piece length") + fmt.Sprintf("i%de", ariaPiece) + text("pieces") + text(string(pieces)) + "e"
	meta := "d" + text("announce") + text(announce) + text("info") + info + "e"
	return os.WriteFile(path, []byte(meta), 0o600)
}

// tracker tells BitTorrent peers of one another: everybody who ever asked.
type tracker struct {
	mu    sync.Mutex
	peers []netip.AddrPort
}

// startTracker serves a tracker on the first host and returns its URL and what
// ends it.
func startTracker(ctx context.Context, fab *fabric.Fabric) (stop func() error, url string, err error) {
	h := fab.Hosts()[0]
	var l net.Listener
	err = h.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", h.Addr().String()+":6969")
		return err
	})
	if err != nil {
		return nil, "", err
	}
	server := &http.Server{Handler: &tracker{}, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	return func() error {
		err := server.Close()
		if serr := <-ended; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return err
	}, "http://" + l.Addr().String() + "/announce", nil
}

// ServeHTTP answers an announcement with all other peers (BEP 23).
func (t *tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !strings.HasPrefix(r.URL.Path, "/announce") {
		http.NotFound(w, r)
		return
	}
	self := netip.AddrPortFrom(from.Addr(), ariaPort)
	t.mu.Lock()
	var list []byte
	for _, p := range t.peers {
		if p != self {
			list = binary.BigEndian.AppendUint16(append(list, p.Addr().AsSlice()...), p.Port())
		}
	}
	if !slices.Contains(t.peers, self) {
		t.peers = append(t.peers, self)
	}
	t.mu.Unlock()
	fmt.Fprintf(w, "d8:intervali5e12:min intervali2e5:peers%d:%se", len(list), list)
}
