package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/namespace"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/provider"
	"github.com/libp2p/go-libp2p-kad-dht/provider/keystore"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"
)

// ErrBacklog says that more announcements wait than a node keeps in memory.
// Try again after a while.
var ErrBacklog = errors.New("too many announcements are waiting")

const (
	maxBacklog    = 1 << 18 // keys that wait to be handed to the keystore
	maxRoots      = 1 << 20
	announceBatch = 4096
	// restPart is how much longer than it worked the announcer rests, so that
	// filling the keystore leaves most of a core to others.
	restPart = 3
	// idleCheck is how often the announcer looks whether there is anything to
	// do, busyCheck the same while announcements are being sent.
	idleCheck = 200 * time.Millisecond
	busyCheck = 10 * time.Millisecond
	// offlineDelay is longer than anything: the announcer itself ends a
	// provider that has nobody left to talk to.
	offlineDelay = 1000 * time.Hour
	// defaultReprovide is the time between announcements of one key.
	defaultReprovide = 22 * time.Hour
)

// announcer keeps the keys of what this node holds announced in the DHT: the
// roots of flists before all else, then chunks.
//
// The DHT's sweeping provider finds out which peers are nearest to many keys at
// once and sends them the records. When what is sent is decided here: the
// provider would take all keys of a region at a time (a million keys in a
// network of three nodes), in the order of the keys, as fast as
// it can. So it is given batches, one after the other, and their messages are
// paced; roots have a provider of their own, and wait for nothing. A provider
// probes ever more slowly while a node is alone, so it is started when the first peer is there and ended when the last has gone; then
// everything is announced anew.
type announcer struct {
	host     host.Host
	dht      *dht.IpfsDHT
	interval time.Duration
	log      *slog.Logger
	ownKept  bool              // this node's own records are kept in the provider store
	keys     keystore.Keystore // of chunks
	sender   *pacedSender
	sweep    sweep // belongs to run

	mu       sync.Mutex
	roots    map[chunk.ID]time.Time // when each was announced; zero if it waits
	backlog  map[chunk.ID]bool      // chunks; true: announce, false: stop
	order    []chunk.ID             // of the backlog, first come first; may name one twice
	forget   bool                   // all chunks announced so far
	wake     chan struct{}
	oldest   time.Time  // of the announcements of all chunks
	provider *providers // nil while there is no peer
}

// newAnnouncer starts with no keys: what a node holds is announced anew after
// each start, whatever an earlier run left in the datastore.
func newAnnouncer(ctx context.Context, h host.Host, d *dht.IpfsDHT, cfg Config) (*announcer, error) {
	a := &announcer{
		host: h, dht: d, interval: cfg.ReprovideInterval, log: cfg.Log, ownKept: cfg.Holds == nil,
		sender: newPacedSender(d.MessageSender(), cfg.AnnounceRate),
		roots:  map[chunk.ID]time.Time{}, backlog: map[chunk.ID]bool{}, wake: make(chan struct{}, 1),
	}
	if a.interval == 0 {
		a.interval = defaultReprovide
	}
	var err error
	a.keys, err = keystore.NewKeystore(namespace.Wrap(cfg.Datastore, ds.NewKey("/announced")))
	if err != nil {
		return nil, fmt.Errorf("open keys to announce: %w", err)
	}
	if err := a.keys.Empty(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("empty keys to announce: %w", err), a.keys.Close())
	}
	return a, nil
}

// run announces until ctx ends.
func (a *announcer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			a.endProvider()
			return
		case <-a.wake:
		case <-timer.C:
		}
		began := time.Now()
		busy, err := a.step(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.Error("announcing", "err", err)
		}
		if busy && err == nil {
			timer.Reset(max(busyCheck, restPart*time.Since(began)))
		} else {
			timer.Reset(idleCheck)
		}
	}
}

// step does what can be done without waiting for the network, and reports
// whether more is to be done as soon as that is sent.
func (a *announcer) step(ctx context.Context) (busy bool, err error) {
	if err := a.forgetChunks(ctx); err != nil {
		return false, err
	}
	if a.dht.RoutingTable().Size() == 0 {
		a.endProvider()
		busy, _, err = a.keep(ctx)
		return busy, err
	}
	if err := a.startProvider(ctx); err != nil {
		return false, err
	}
	pending, ready, err := a.provider.pending(ctx)
	if err != nil || !ready {
		return true, err
	}
	if roots := a.takeRoots(time.Now()); len(roots) > 0 {
		return true, a.provide(ctx, a.provider.roots, roots)
	}
	if pending > 0 && !a.provider.stuck(progress{pending, a.sender.counted.messages.Load()}, time.Now()) {
		return true, nil
	}
	kept, fresh, err := a.keep(ctx)
	if err != nil || len(fresh) >= sweepBatch {
		return true, errors.Join(err, a.provide(ctx, a.provider.chunks, fresh))
	}
	due, err := a.sweep.next(ctx, a.keys, a.interval, time.Now())
	a.setOldest()
	if err != nil {
		return false, fmt.Errorf("read keys to announce: %w", err)
	}
	due = append(due, fresh...)
	return kept || len(due) > 0, a.provide(ctx, a.provider.chunks, due)
}

// provide gives keys to a provider.
func (a *announcer) provide(ctx context.Context, to *provider.SweepingProvider, keys []mh.Multihash) error {
	if len(keys) == 0 {
		return nil
	}
	if a.ownKept {
		for _, k := range keys {
			if err := a.addOwn(ctx, k); err != nil {
				return fmt.Errorf("record own key: %w", err)
			}
		}
	}
	if err := to.ProvideOnce(keys...); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}

// addOwn writes down that this node has k, so that it can itself answer who
// has it: at once, and whatever became of those it announced to.
func (a *announcer) addOwn(ctx context.Context, k mh.Multihash) error {
	return a.dht.ProviderStore().AddProvider(ctx, k, peer.AddrInfo{ID: a.host.ID()})
}

// startProvider starts one if there is none, or the network has changed much.
func (a *announcer) startProvider(ctx context.Context) error {
	peers := a.dht.RoutingTable().Size()
	if a.provider != nil {
		if !a.provider.outgrown(peers) {
			return nil
		}
		if n, ready, err := a.provider.pending(ctx); err != nil || n > 0 || !ready {
			return err // not now
		}
		a.closeProvider()
	}
	p, err := newProviders(a, peers)
	if err != nil {
		return err
	}
	a.setProvider(p)
	a.log.Debug("announcing starts", "peers", peers)
	return nil
}

// endProvider ends the provider because nobody is left. Whoever comes next is
// told everything.
func (a *announcer) endProvider() {
	if a.provider == nil {
		return
	}
	a.closeProvider()
	a.sweep.reset()
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.roots {
		a.roots[id] = time.Time{}
	}
}

func (a *announcer) closeProvider() {
	p := a.provider
	a.setProvider(nil)
	if err := p.close(); err != nil {
		a.log.Debug("announcing ends", "err", err)
	}
}

func (a *announcer) setProvider(p *providers) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.provider = p
}

func (a *announcer) setOldest() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.oldest = a.sweep.oldest()
}

// close is called after run has ended.
func (a *announcer) close() error { return a.keys.Close() }
