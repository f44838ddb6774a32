package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

// crowdHTTP lets all hosts but the first download the content from the first,
// write it to a file and hash it.
func crowdHTTP(ctx context.Context, fab *fabric.Fabric, opts Options, dir string) (c crowd, err error) {
	hosts := fab.Hosts()
	server, stop, err := serveFrom(ctx, hosts[0], filepath.Join(dir, "content"))
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var mu sync.Mutex
	before, began := ownCPU(), time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range hosts[1:] {
		g.Go(func() error {
			d := download{began: began, total: opts.SwarmBytes}
			if err := d.get(gctx, h, server+"file-0000", filepath.Join(dir, h.Name())); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			c.seconds, c.curves = append(c.seconds, time.Since(began).Seconds()), append(c.curves, d.curve)
			return nil
		})
	}
	err = g.Wait()
	c.cpu = ownCPU() - before
	return c, err
}

// serveFrom serves a directory on a host and returns its URL and what ends it.
func serveFrom(ctx context.Context, h *fabric.Host, dir string) (base string, stop func() error, err error) {
	var l net.Listener
	err = h.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", h.Addr().String()+":8080")
		return err
	})
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	return "http://" + l.Addr().String() + "/", func() error {
		err := server.Close()
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return err
	}, nil
}

// download is one download and how far it has come.
type download struct {
	began time.Time
	total int64
	have  int64
	told  time.Time
	curve []testnet.Point
}

// get downloads url into a file as host h, hashes it on the way, and removes it.
func (d *download) get(ctx context.Context, h *fabric.Host, url, path string) (err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = h.Do(func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	if _, err := io.Copy(io.MultiWriter(f, sha256.New(), d), resp.Body); err != nil {
		return err
	}
	if d.have != d.total {
		return fmt.Errorf("%s: %d of %d bytes", url, d.have, d.total)
	}
	return nil
}

// Write counts.
func (d *download) Write(b []byte) (int, error) {
	d.have += int64(len(b))
	if now := time.Now(); now.Sub(d.told) >= 100*time.Millisecond || d.have == d.total {
		d.told = now
		d.curve = append(d.curve, testnet.Point{Seconds: now.Sub(d.began).Seconds(), Part: float64(d.have) / float64(d.total)})
	}
	return len(b), nil
}

// ownCPU returns the processor seconds this process has used.
func ownCPU() float64 {
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()
}
