package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
)

// transfer is one run of the benchmark of that name.
type transfer struct {
	opts    Options
	dir     string
	network *testnet.Network
	seed    *testnet.Node
	cid     string
	runs    int
	cpu     []float64 // of both nodes
}

// Transfer measures one node that fetches from one other over loopback, beside
// a download over HTTP that is hashed and kept: bytes that cannot be
// compressed and, if given, the tree opts.Root.
func Transfer(ctx context.Context, opts Options) (t Table, err error) {
	dir, err := os.MkdirTemp("", "flistnode-bench-")
	if err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	x := transfer{opts: opts, dir: dir, network: testnet.New(testnet.Config{Binary: opts.Binary, Dir: dir})}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, x.network.Stop(stop), os.RemoveAll(dir))
	}()
	opts.Progress(fmt.Sprintf("making %d MiB and packing them on a node", opts.TransferBytes>>20))
	content := filepath.Join(dir, "content")
	if err := testnet.MakeContent(content, opts.TransferBytes, opts.TransferBytes, 1); err != nil {
		return t, err
	}
	if err := x.pack(ctx, content); err != nil {
		return t, err
	}
	server, name, stop, err := serveHTTP(ctx, dir, content)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	others, stopOthers, err := x.others(ctx, content, server)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, stopOthers()) }()
	var own, other []float64
	for i := range opts.Runs + 1 { // the first of each is not counted
		opts.Progress(fmt.Sprintf("flistnode and %s in turn, run %d of %d", name, i, opts.Runs))
		seconds, err := x.fetch(ctx)
		if err != nil {
			return t, err
		}
		pipe, err := x.pipeline(ctx, server+"file-0000")
		if err != nil {
			return t, err
		}
		if i > 0 {
			own, other = append(own, seconds), append(other, pipe)
		}
		for _, o := range others {
			if err := o.turn(ctx, i > 0); err != nil {
				return t, err
			}
		}
	}
	t.Title = fmt.Sprintf("%d MiB from one node to another over loopback", opts.TransferBytes>>20)
	t.Notes = fmt.Sprintf("encrypted, every chunk verified and stored; %d runs of each side in turn, each after as much memory was written and given back; medians", opts.Runs)
	t.add("fetch", median(own), "s", "curl | tee FILE | openssl dgst -sha256 from "+name, median(other))
	t.add("fetch, slowest run", max0(own), "s", "slowest of the other", max0(other))
	for _, o := range others {
		if len(o.seconds) == 0 {
			t.Notes += "; " + o.failed
			continue
		}
		t.add("fetch", median(own), "s", o.name, median(o.seconds))
	}
	t.add("CPU of both nodes", median(x.cpu[1:]), "s", "", 0)
	if opts.Root != "" {
		err = x.tree(ctx, &t)
	}
	return t, err
}

func max0(xs []float64) float64 {
	m := 0.0
	for _, x := range xs {
		m = max(m, x)
	}
	return m
}

func (x *transfer) pack(ctx context.Context, content string) (err error) {
	if x.seed, err = x.network.Start(ctx, "seed"); err != nil {
		return err
	}
	res, err := x.seed.Pack(ctx, api.PackRequest{Dir: content, Reproducible: true}, nil)
	x.cid = res.CID
	return err
}

// fetch lets a new node fetch everything, and returns the seconds it took.
func (x *transfer) fetch(ctx context.Context) (seconds float64, err error) {
	x.runs++
	n, err := x.network.Start(ctx, fmt.Sprintf("run%d", x.runs), x.seed)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.Stop(ctx), os.RemoveAll(n.Dir)) }()
	if err := n.WaitPeers(ctx, 1); err != nil {
		return 0, err
	}
	if err := x.evenMemory(); err != nil {
		return 0, err
	}
	before := n.CPU() + x.seed.CPU()
	began := time.Now()
	if _, err := n.Fetch(ctx, api.FetchRequest{FList: x.cid}, nil); err != nil {
		return 0, err
	}
	seconds = time.Since(began).Seconds()
	x.cpu = append(x.cpu, (n.CPU() + x.seed.CPU() - before).Seconds())
	in, err := n.Inspect(ctx, x.cid)
	if err == nil && in.DataChunksHere < in.DataChunks {
		err = fmt.Errorf("bench: a node holds %d of %d chunks after its fetch", in.DataChunksHere, in.DataChunks)
	}
	return seconds, err
}

// evenMemory is evenMemory for what one side takes.
func (x *transfer) evenMemory() error { return evenMemory(x.dir, x.opts.TransferBytes) }

// pipeline downloads url over HTTP, hashes it and keeps it in a file.
func (x *transfer) pipeline(ctx context.Context, url string) (float64, error) {
	if err := x.evenMemory(); err != nil {
		return 0, err
	}
	file := filepath.Join(x.dir, "download")
	r, err := command(ctx, "sh", "-c", `curl -sSf "$0" | tee "$1" | openssl dgst -sha256`, url, file)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	if info.Size() != x.opts.TransferBytes {
		return 0, fmt.Errorf("bench: downloaded %d of %d bytes", info.Size(), x.opts.TransferBytes)
	}
	return r.seconds, os.Remove(file)
}

// serveHTTP serves the directory content: by nginx if it is installed, else by
// this process. It returns the URL of the directory, who serves, and what
// ends it.
func serveHTTP(ctx context.Context, dir, content string) (url, name string, stop func() error, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", "", nil, fmt.Errorf("bench: %w", err)
	}
	addr := l.Addr().String()
	url = "http://" + addr + "/"
	if !installed("nginx") {
		server := &http.Server{Handler: http.FileServer(http.Dir(content)), ReadHeaderTimeout: time.Minute}
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(l) }()
		return url, "Go's net/http", func() error {
			err := server.Close()
			<-ended // ErrServerClosed
			return err
		}, nil
	}
	if err := l.Close(); err != nil { // nginx takes the port
		return "", "", nil, err
	}
	stop, err = startNginx(ctx, dir, content, addr)
	return url, "nginx", stop, err
}

const nginxConf = `daemon off;
user root;
pid nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  server { listen ADDR; root CONTENT; }
}
`

func startNginx(ctx context.Context, dir, content, addr string) (func() error, error) {
	conf := filepath.Join(dir, "nginx.conf")
	text := strings.NewReplacer("ADDR", addr, "CONTENT", content).Replace(nginxConf)
	if os.Geteuid() != 0 {
		text = strings.Replace(text, "user root;\n", "", 1)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	var log strings.Builder
	cmd := exec.CommandContext(ctx, "nginx", "-p", dir, "-c", conf, "-e", "stderr")
	cmd.Stderr = &log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("bench: start nginx: %w", err)
	}
	stop := func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("bench: nginx: %w: %s", err, log.String())
		}
		return nil
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", addr)
		if err == nil {
			return stop, conn.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("bench: nginx does not listen: %w", err), stop())
		}
	}
}
