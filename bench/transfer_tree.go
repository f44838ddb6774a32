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
	"time"

	"github.com/flistnode/flistnode/node/api"
)

// tree adds the same for the tree opts.Root: a node that fetches all its
// chunks, beside a tar.zst made and unpacked on the way over HTTP.
func (x *transfer) tree(ctx context.Context, t *Table) (err error) {
	root := x.opts.Root
	x.opts.Progress("packing " + root + " on a node")
	res, err := x.seed.Pack(ctx, api.PackRequest{Dir: root, IgnoreUnreadable: true}, nil)
	if err != nil {
		return err
	}
	x.cid = res.CID
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: tarServer(x.opts.Root)}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	defer func() {
		err = errors.Join(err, server.Close())
		<-ended // ErrServerClosed
	}()
	x.cpu = nil
	var own, other []float64
	for i := range x.opts.Runs + 1 {
		x.opts.Progress(fmt.Sprintf("the tree, flistnode and tar in turn, run %d of %d", i, x.opts.Runs))
		seconds, err := x.fetch(ctx)
		if err != nil {
			return err
		}
		tar, err := x.untar(ctx, "http://"+l.Addr().String()+"/")
		if err != nil {
			return err
		}
		if i > 0 {
			own, other = append(own, seconds), append(other, tar)
		}
	}
	t.add(fmt.Sprintf("fetch %s (%d entries, %d MB)", root, res.Entries, res.Bytes/1e6), median(own), "s",
		"tar | zstd -3 -T0 over HTTP, unpacked", median(other))
	t.add("CPU of both nodes for it", median(x.cpu[1:]), "s", "", 0)
	return nil
}

// tarServer answers with a tar.zst of dir, made while it is sent.
func tarServer(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cmd := exec.CommandContext(r.Context(), "sh", "-c", `tar -C "$0" -cf - . | zstd -q -3 -T0`, dir)
		cmd.Stdout = w
		if cmd.Run() != nil {
			panic(http.ErrAbortHandler) // the way to break an answer off
		}
	})
}

// untar downloads url and unpacks it, and returns the seconds that took.
func (x *transfer) untar(ctx context.Context, url string) (float64, error) {
	if err := x.evenMemory(); err != nil {
		return 0, err
	}
	out := filepath.Join(x.dir, "untar")
	if err := os.Mkdir(out, 0o700); err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	r, err := command(ctx, "sh", "-c", `curl -sSf "$0" | zstd -dcq | tar -C "$1" -xpf -`, url, out)
	if err != nil {
		return 0, err
	}
	return r.seconds, os.RemoveAll(out)
}
