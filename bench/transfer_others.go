package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// otherTransfer brings the same content from one place to another with another
// program.
type otherTransfer struct {
	name    string
	run     step
	seconds []float64 // of the counted runs
	failed  string    // why there will be no more
}

// turn runs it once, unless it has failed before. That it fails is noted and
// no error, unless ctx has ended.
func (o *otherTransfer) turn(ctx context.Context, counted bool) error {
	if o.failed != "" {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, otherLimit)
	defer cancel()
	seconds, err := o.run(within)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		o.failed, o.seconds = o.name+" failed: "+brief(err), nil
	case counted:
		o.seconds = append(o.seconds, seconds)
	}
	return nil
}

// others prepares those of the other programs that are installed. What is
// served at the URL server is the directory content.
func (x *transfer) others(ctx context.Context, content, server string) (others []*otherTransfer, stop func() error, err error) {
	file := filepath.Join(content, "file-0000")
	if installed("desync") {
		x.opts.Progress("chunking it with desync")
		index := filepath.Join(x.dir, "content.caibx")
		if err := desyncMake(ctx, filepath.Join(content, "desync"), index, file); err != nil {
			return nil, nil, err
		}
		others = append(others, &otherTransfer{name: "desync extract over HTTP", run: func(ctx context.Context) (float64, error) {
			if err := x.evenMemory(); err != nil {
				return 0, err
			}
			out := filepath.Join(x.dir, "extracted")
			r, err := command(ctx, "desync", "extract", "-s", server+"desync/", index, out)
			return r.seconds, errors.Join(err, os.RemoveAll(out))
		}})
	}
	if !installed("ipfs") {
		return others, func() error { return nil }, nil
	}
	x.opts.Progress("adding it to a daemon of ipfs")
	seed, err := startKubo(ctx, here, filepath.Join(x.dir, "ipfs-seed"), loopback)
	if err != nil {
		return nil, nil, err
	}
	stop = func() error {
		seed.stop()
		return nil
	}
	cid, err := seed.add(ctx, file)
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	others = append(others, &otherTransfer{name: "ipfs pin add", run: func(ctx context.Context) (float64, error) {
		return x.fetchKubo(ctx, seed, cid)
	}})
	return others, stop, nil
}

// loopback is any free TCP port of this machine, as a multiaddr.
const loopback = "/ip4/127.0.0.1/tcp/0"

// fetchKubo lets a new daemon fetch from seed and returns the seconds it took.
func (x *transfer) fetchKubo(ctx context.Context, seed *kubo, cid string) (seconds float64, err error) {
	dir := filepath.Join(x.dir, "ipfs")
	k, err := startKubo(ctx, here, dir, loopback)
	if err != nil {
		return 0, err
	}
	defer func() {
		k.stop()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := k.connect(ctx, seed); err != nil {
		return 0, err
	}
	if err := x.evenMemory(); err != nil {
		return 0, err
	}
	began := time.Now()
	err = k.fetch(ctx, cid)
	return time.Since(began).Seconds(), err
}

// desyncMake cuts a file into the new chunk store and writes its index.
func desyncMake(ctx context.Context, store, index, file string) error {
	if err := os.Mkdir(store, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	_, err := command(ctx, "desync", "make", "-s", store, index, file)
	return err
}
