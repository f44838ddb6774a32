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
	maxBacklog    = 1 << 20 // keys that wait to be handed to the provider
	announceBatch = 4096
	// onlineCheck is how often the announcer looks whether there is anybody to
	// announce to.
	onlineCheck = 200 * time.Millisecond
	// offlineDelay is longer than anything: the announcer itself ends a
	// provider that has nobody left to talk to.
	offlineDelay = 1000 * time.Hour
)

// announcer keeps the keys of what this node holds announced in the DHT.
//
// The sweeping provider does the work. It probes ever more slowly while a node
// is alone, and what it was given meanwhile waits for the next cycle; so the
// announcer keeps the keys in a keystore of its own, starts a provider when
// the first peer is there, which then announces the whole keystore at once,
// and ends it when the last peer has gone.
type announcer struct {
	host     host.Host
	dht      *dht.IpfsDHT
	interval time.Duration
	log      *slog.Logger
	began    time.Time
	state    ds.Batching
	keys     keystore.Keystore

	mu       sync.Mutex
	backlog  map[chunk.ID]bool // true: announce, false: stop
	order    []chunk.ID        // of the backlog, first come first; may name one twice
	wake     chan struct{}
	provider *provider.SweepingProvider // nil while there is no peer
}

// newAnnouncer starts with no keys: what a node holds is announced anew after
// each start, whatever an earlier run left in the datastore.
func newAnnouncer(ctx context.Context, h host.Host, d *dht.IpfsDHT, cfg Config) (*announcer, error) {
	a := &announcer{
		host: h, dht: d, interval: cfg.ReprovideInterval, log: cfg.Log, began: time.Now(),
		state:   newMemStore(),
		backlog: map[chunk.ID]bool{}, wake: make(chan struct{}, 1),
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

// put notes that ids shall be announced, or no longer.
func (a *announcer) put(announce bool, ids []chunk.ID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.order)+len(ids) > maxBacklog {
		return ErrBacklog
	}
	for _, id := range ids {
		a.backlog[id] = announce
	}
	a.order = append(a.order, ids...)
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

// run hands the backlog on and starts and ends providers, until ctx ends.
func (a *announcer) run(ctx context.Context) {
	tick := time.NewTicker(onlineCheck)
	defer tick.Stop()
	for {
		if err := a.step(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("announcing", "err", err)
		}
		select {
		case <-ctx.Done():
			a.endProvider()
			return
		case <-a.wake:
		case <-tick.C:
		}
	}
}

func (a *announcer) step(ctx context.Context) error {
	online := a.dht.RoutingTable().Size() > 0
	if !online {
		a.endProvider()
	}
	for start, stop := a.take(); len(start)+len(stop) > 0 && ctx.Err() == nil; start, stop = a.take() {
		if err := a.hand(ctx, start, stop); err != nil {
			return err
		}
	}
	if online && a.provider == nil {
		return a.startProvider()
	}
	return nil
}

// take removes up to announceBatch keys from the backlog, first come first.
func (a *announcer) take() (start, stop []mh.Multihash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.order), announceBatch)
	for _, id := range a.order[:n] {
		announce, ok := a.backlog[id]
		if !ok {
			continue // named twice
		}
		delete(a.backlog, id)
		if announce {
			start = append(start, id.Multihash())
		} else {
			stop = append(stop, id.Multihash())
		}
	}
	if a.order = a.order[n:]; len(a.order) == 0 {
		a.order = nil
	}
	return start, stop
}

// hand gives keys to the provider, or to the keystore while there is none.
func (a *announcer) hand(ctx context.Context, start, stop []mh.Multihash) error {
	for _, k := range start {
		if err := a.addLocal(ctx, k); err != nil {
			return fmt.Errorf("record own key: %w", err)
		}
	}
	if a.provider != nil {
		return errors.Join(a.provider.StartProviding(false, start...), a.provider.StopProviding(stop...))
	}
	if _, err := a.keys.Put(ctx, start...); err != nil {
		return fmt.Errorf("keep keys to announce: %w", err)
	}
	if err := a.keys.Delete(ctx, stop...); err != nil {
		return fmt.Errorf("drop keys to announce: %w", err)
	}
	return nil
}

// addLocal writes down that this node has k, so that it can itself answer who
// has it: at once, and whatever became of those it announced to.
func (a *announcer) addLocal(ctx context.Context, k mh.Multihash) error {
	return a.dht.ProviderStore().AddProvider(ctx, k, peer.AddrInfo{ID: a.host.ID()})
}

// refreshLocal does that again when k is announced again, but not soon after
// the start, when hand has just done it for all keys.
func (a *announcer) refreshLocal(ctx context.Context, k mh.Multihash) error {
	if time.Since(a.began) < time.Hour {
		return nil
	}
	return a.addLocal(ctx, k)
}

func (a *announcer) startProvider() error {
	opts := []provider.Option{
		provider.WithHost(a.host), provider.WithRouter(a.dht), provider.WithMessageSender(a.dht.MessageSender()),
		provider.WithSelfAddrs(a.dht.FilteredAddrs),
		provider.WithAddLocalRecord(a.refreshLocal),
		provider.WithKeystore(a.keys), provider.WithDatastore(a.state),
		provider.WithResumeCycle(false), provider.WithOfflineDelay(offlineDelay),
		provider.WithConnectivityCheckOnlineInterval(time.Second),
	}
	if a.interval > 0 {
		opts = append(opts, provider.WithReprovideInterval(a.interval),
			provider.WithMaxReprovideDelay(max(a.interval/20, time.Millisecond)))
	}
	p, err := provider.New(opts...)
	if err != nil {
		return fmt.Errorf("start provider: %w", err)
	}
	a.setProvider(p)
	a.log.Debug("announcing starts")
	return nil
}

func (a *announcer) endProvider() {
	if a.provider == nil {
		return
	}
	p := a.provider
	a.setProvider(nil)
	if err := p.Close(); err != nil && !errors.Is(err, context.Canceled) {
		a.log.Debug("announcing ends", "err", err)
	}
}

func (a *announcer) setProvider(p *provider.SweepingProvider) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.provider = p
}

// close is called after run has ended.
func (a *announcer) close() error { return a.keys.Close() }

// Announce makes this node announce that it holds ids, now and again and again
// until StopAnnouncing. It only notes the wish: it never waits for the network
// and works without any peer. The error is ErrBacklog or nil.
//
// Nothing announced is remembered over a restart: announce what is held after
// each start.
func (h *Host) Announce(ids ...chunk.ID) error { return h.announcer.put(true, ids) }

// StopAnnouncing ends what Announce began. Records that others keep expire
// after 48 hours; until then they lead to an answer "don't have".
func (h *Host) StopAnnouncing(ids ...chunk.ID) error { return h.announcer.put(false, ids) }

// AnnounceStats says how far announcing has come.
type AnnounceStats struct {
	Online  bool // there is somebody to announce to
	Keys    int  // keys that are kept announced
	Backlog int  // keys noted and not yet handed on
	Pending int  // keys whose announcement waits or is being sent
	Regions int  // parts of the key space that wait to be announced again
}

// AnnounceStats returns the present figures.
func (h *Host) AnnounceStats(ctx context.Context) (AnnounceStats, error) {
	a := h.announcer
	keys, err := a.keys.Size(ctx)
	if err != nil {
		return AnnounceStats{}, fmt.Errorf("count announced keys: %w", err)
	}
	a.mu.Lock()
	s := AnnounceStats{Keys: keys, Backlog: len(a.backlog), Online: a.provider != nil}
	p := a.provider
	a.mu.Unlock()
	if p == nil {
		return s, nil
	}
	ps, err := p.Stats(ctx)
	if err != nil {
		return s, fmt.Errorf("statistics of announcing: %w", err)
	}
	s.Pending = int(ps.Queues.PendingKeyProvides) + ps.Operations.Ongoing.KeyProvides + ps.Operations.Ongoing.KeyReprovides
	s.Regions = int(ps.Queues.PendingRegionReprovides)
	return s, nil
}
