package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/testnet"
)

const (
	heldChunks  = 1_000_000
	heldPeers   = 2                // of the daemon that holds them
	heldWarmUp  = 30 * time.Second // at most, until it has sent its first record
	heldSample  = 15 * time.Second
	announceDay = 22 * time.Hour // after which everything is announced again
)

// heldRun is what a daemon that holds a million chunks did while it was looked
// at.
type heldRun struct {
	mode    string  // in force
	share   float64 // percent of a core
	peers   float64 // percent of a core, of each of its peers
	records float64 // sent a second
	memory  float64 // MB, anonymous, at most
}

// addHeld measures a real daemon that holds a million chunks and has two peers,
// in each mode of announcing.
func addHeld(ctx context.Context, opts Options, dir string, t *Table) error {
	opts.Progress("putting a million chunks into a store")
	if err := fillChunks(ctx, filepath.Join(dir, "held", "data", "store")); err != nil {
		return err
	}
	for _, setting := range []string{"chunks", "roots", "auto"} {
		opts.Progress(fmt.Sprintf("a daemon with a million chunks, --announce %s", setting))
		r, err := watchHeld(ctx, opts, dir, setting)
		if err != nil {
			return err
		}
		name := "1,000,000 chunks held, " + setting
		if r.mode != setting {
			name += " (" + r.mode + " in force)"
		}
		if r.records > 0 {
			t.add(name+": records a second", r.records, "", "", 0)
		}
		t.add(name+": of a core meanwhile", r.share, "%", "each of its peers", r.peers)
		if r.records > 0 {
			once := heldChunks * heldPeers / r.records
			t.add(name+": of a core over 22 h", r.share*once/announceDay.Seconds(), "%", "", 0)
		}
		t.add(name+": anonymous memory, at most", r.memory, "MB", "", 0)
	}
	return nil
}

// fillChunks makes a store of a million small chunks.
func fillChunks(ctx context.Context, dir string) (err error) {
	store, err := chunkstore.Open(dir, chunkstore.Options{ReserveBytes: 1 << 20})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range uint64(heldChunks) {
		g.Go(func() error { return store.Put(ctx, chunk.Pack(binary.AppendUvarint([]byte("held "), i))) })
	}
	return g.Wait()
}

// watchHeld starts the daemon and its peers and looks at it.
func watchHeld(ctx context.Context, opts Options, dir, setting string) (r heldRun, err error) {
	network := testnet.New(testnet.Config{Binary: opts.Binary, Dir: dir, Args: []string{"--announce", setting}})
	defer func() { err = errors.Join(err, network.Stop(context.WithoutCancel(ctx))) }()
	var peers []*testnet.Node
	for i := range heldPeers {
		n, err := network.Start(ctx, fmt.Sprintf("%s-%d", setting, i), peers...)
		if err != nil {
			return r, err
		}
		peers = append(peers, n)
	}
	n, err := network.Start(ctx, "held", peers...)
	if err != nil {
		return r, err
	}
	memory := watchMemory(n.PID())
	defer func() { r.memory = memory() }()
	records := func() (uint64, error) {
		s, err := n.Status(ctx)
		r.mode = s.Announce.Mode
		return s.Announce.RecordsSent, err
	}
	for began := time.Now(); time.Since(began) < heldWarmUp; time.Sleep(100 * time.Millisecond) {
		if sent, err := records(); err != nil || sent > 10_000 {
			break
		}
	}
	before, err := records()
	if err != nil {
		return r, err
	}
	peersCPU := func() (sum time.Duration) {
		for _, p := range peers {
			sum += p.CPU()
		}
		return sum
	}
	began, own, others := time.Now(), n.CPU(), peersCPU()
	select {
	case <-ctx.Done():
		return r, context.Cause(ctx)
	case <-time.After(heldSample):
	}
	after, err := records()
	seconds := time.Since(began).Seconds()
	r.share = 100 * (n.CPU() - own).Seconds() / seconds
	r.peers = 100 * (peersCPU() - others).Seconds() / seconds / heldPeers
	r.records = float64(after-before) / seconds
	return r, err
}
