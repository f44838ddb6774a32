package bench

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p"
)

const (
	// chunksAnFList is how many chunks are taken to belong to one flist: a root
	// file system of 2 GB has about as many.
	chunksAnFList = 10_000
	// unpaced is a rate of announcing that never waits.
	unpaced = 1 << 30
	// announceLimit is more than announcing a million chunks among three nodes
	// takes on one busy core.
	announceLimit = 20 * time.Minute
	// kept is how many peers keep a record, if there are as many.
	kept = 20
)

// announcement is what it costs to announce all once.
type announcement struct {
	nodes, chunks int
	measured      bool
	records       float64 // sent
	lookups       float64 // requests sent to find out to whom
	bytes         float64 // of both
	cpu           float64 // seconds, of all nodes together
	stored        float64 // by each of the others, on average
	most          float64 // the same by the one that stores most
}

// announceNet is a network of nodes in this process, all of them connected.
type announceNet struct {
	hosts  []*p2p.Host
	stores []*chunkstore.Store
	stop   context.CancelFunc
	run    sync.WaitGroup

	lookups, bytes atomic.Int64   // received by all
	stored         []atomic.Int64 // records received by each
}

// newAnnounceNet starts nodes that send no more than rate records a second. The
// stores are made below dir, or there already.
func newAnnounceNet(ctx context.Context, dir string, nodes, rate int) (n *announceNet, err error) {
	run, stop := context.WithCancel(ctx)
	n = &announceNet{stop: stop, stored: make([]atomic.Int64, nodes)}
	for i := range nodes {
		if err := n.add(ctx, run, filepath.Join(dir, fmt.Sprint(i)), i, rate); err != nil {
			return nil, errors.Join(err, n.close())
		}
	}
	for i, h := range n.hosts {
		for _, other := range n.hosts[:i] {
			if err := connect(ctx, h, other); err != nil {
				return nil, errors.Join(err, n.close())
			}
		}
	}
	for _, h := range n.hosts {
		err := until(ctx, func() (bool, error) { return h.Replicas() == min(nodes-1, kept), nil })
		if err != nil {
			return nil, errors.Join(fmt.Errorf("bench: nodes do not meet: %w", err), n.close())
		}
	}
	return n, nil
}

// connect tries until it is done: of two nodes that dial each other at once one
// may find its connection closed.
func connect(ctx context.Context, h, other *p2p.Host) (err error) {
	late := until(ctx, func() (bool, error) {
		err = h.Connect(ctx, peer.AddrInfo{ID: other.ID(), Addrs: other.Libp2p().Addrs()})
		return err == nil, nil
	})
	if late != nil {
		return errors.Join(late, err)
	}
	return nil
}

func (n *announceNet) add(ctx, run context.Context, dir string, i, rate int) error {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	store, err := chunkstore.Open(dir, chunkstore.Options{ReserveBytes: 1 << 20})
	if err != nil {
		return err
	}
	n.stores = append(n.stores, store)
	h, err := p2p.New(ctx, p2p.Config{
		Identity: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Datastore: store.Datastore("/dht"),
		AnnounceRate: rate, Holds: func(context.Context, chunk.ID) (bool, error) { return false, nil },
		OnDHTRequest: func(kind string, bytes int) {
			n.bytes.Add(int64(bytes))
			if kind == "ADD_PROVIDER" {
				n.stored[i].Add(1)
			} else {
				n.lookups.Add(1)
			}
		},
	})
	if err != nil {
		return err
	}
	n.hosts = append(n.hosts, h)
	n.run.Go(func() { _ = h.Run(run) }) // close says what went wrong
	return nil
}

func (n *announceNet) close() error {
	var errs []error
	for _, h := range n.hosts {
		errs = append(errs, h.Close())
	}
	n.stop()
	n.run.Wait()
	for _, s := range n.stores {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// announce lets the first node announce ids and returns when all is sent.
func (n *announceNet) announce(ctx context.Context, asRoots bool, ids []chunk.ID) (a announcement, err error) {
	h := n.hosts[0]
	before, err := h.AnnounceStats(ctx)
	if err != nil {
		return a, err
	}
	lookups, bytes, cpu := n.lookups.Load(), n.bytes.Load(), cpuSeconds()
	stored := make([]int64, len(n.stored))
	for i := range stored {
		stored[i] = n.stored[i].Load()
	}
	if asRoots {
		err = h.AnnounceRoots(ids...)
	} else {
		err = handChunks(ctx, h, ids)
	}
	if err != nil {
		return a, err
	}
	want := before.Messages + uint64(len(ids)*h.Replicas())
	err = untilWithin(ctx, announceLimit, func() (bool, error) {
		s, err := h.AnnounceStats(ctx)
		return s.Backlog == 0 && s.Pending == 0 && s.Messages >= want && n.received() >= s.Messages, err
	})
	if err != nil {
		return a, fmt.Errorf("bench: announcing: %w", err)
	}
	after, err := h.AnnounceStats(ctx)
	a = announcement{nodes: len(n.hosts), chunks: len(ids), measured: true, cpu: cpuSeconds() - cpu,
		records: float64(after.Messages - before.Messages),
		lookups: float64(n.lookups.Load() - lookups), bytes: float64(n.bytes.Load() - bytes)}
	for i := range n.stored[1:] {
		got := float64(n.stored[i+1].Load() - stored[i+1])
		a.stored += got / float64(len(n.stored)-1)
		a.most = max(a.most, got)
	}
	return a, err
}

// received is how many records have come in at all nodes.
func (n *announceNet) received() (sum uint64) {
	for i := range n.stored {
		sum += uint64(n.stored[i].Load())
	}
	return sum
}

// handChunks hands over ids as fast as the host takes them.
func handChunks(ctx context.Context, h *p2p.Host, ids []chunk.ID) error {
	const batch = 1 << 14
	for len(ids) > 0 {
		n := min(batch, len(ids))
		err := until(ctx, func() (bool, error) {
			err := h.Announce(ids[:n]...)
			if errors.Is(err, p2p.ErrBacklog) {
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// measureAnnounce announces so many chunks, and the flists they would belong
// to, in a new network.
func measureAnnounce(ctx context.Context, dir string, nodes, chunks int) (byChunks, byRoots announcement, err error) {
	n, err := newAnnounceNet(ctx, dir, nodes, unpaced)
	if err != nil {
		return byChunks, byRoots, err
	}
	defer func() { err = errors.Join(err, n.close(), os.RemoveAll(dir)) }()
	if byRoots, err = n.announce(ctx, true, numbered(rootCount(chunks), 1)); err != nil {
		return byChunks, byRoots, err
	}
	byRoots.chunks = chunks
	byChunks, err = n.announce(ctx, false, numbered(chunks, 2))
	return byChunks, byRoots, err
}

func rootCount(chunks int) int { return max(1, chunks/chunksAnFList) }

// numbered returns n different IDs.
func numbered(n int, kind byte) []chunk.ID {
	ids := make([]chunk.ID, n)
	for i := range ids {
		ids[i] = chunk.Sum(binary.BigEndian.AppendUint64([]byte{kind}, uint64(i)))
	}
	return ids
}

// until polls ok until it is true.
func until(ctx context.Context, ok func() (bool, error)) error {
	return untilWithin(ctx, 5*time.Minute, ok)
}

func untilWithin(ctx context.Context, limit time.Duration, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// cpuSeconds is what this process has used, user and system.
func cpuSeconds() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
