// Package p2p makes a node part of a network: its identity, its libp2p host,
// the Kademlia DHT, discovery on the LAN, the peers it knows, and the
// announcing of what it holds.
//
// It moves no chunks and knows no store: p2p/exchange and p2p/swarm work on the
// host it gives them. New builds a Host, Run works until its context ends and
// returns when all goroutines have. A Host may be used from many goroutines at
// once.
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
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"
)

// DHTPrefix is the protocol prefix of the DHT: nodes speak
// /flistnode/kad/1.0.0.
const DHTPrefix protocol.ID = "/flistnode"

// ServiceName is what nodes look for on the LAN by multicast DNS.
const ServiceName = "_flistnode._udp"

// Config says how a Host is built. Only Identity must be given.
type Config struct {
	Identity       crypto.PrivKey  // see LoadIdentity
	Listen         []string        // multiaddrs; none: DefaultListen
	Peers          []peer.AddrInfo // bootstrap peers
	SwarmKey       []byte          // content of a /key/swarm/psk/1.0.0/ file; nil for a public network
	MDNS           bool            // find peers on the LAN
	KnownPeersFile string          // "" keeps known peers in memory only
	Datastore      ds.Batching     // provider records and keys announced; nil keeps them in memory
	UserAgent      string          // "flistnode" when empty
	Log            *slog.Logger    // discards when nil

	ReprovideInterval time.Duration // between announcements of one key; 22 h when 0
	AnnounceRate      int           // records of chunks sent a second at most; DefaultAnnounceRate when 0

	// Holds says whether this node has a chunk, for others who ask who has it.
	// If nil, it has what was announced.
	Holds func(ctx context.Context, id chunk.ID) (bool, error)
	// OnDHTRequest is told the kind and size in bytes of each message of the DHT
	// that comes in, if not nil. It must not block.
	OnDHTRequest func(kind string, bytes int)
}

// DefaultListen returns the addresses a node listens on unless told otherwise.
func DefaultListen() []string {
	return []string{
		"/ip4/0.0.0.0/tcp/4101", "/ip4/0.0.0.0/udp/4101/quic-v1",
		"/ip6/::/tcp/4101", "/ip6/::/udp/4101/quic-v1",
	}
}

// Host is a node of the network.
type Host struct {
	cfg  Config
	log  *slog.Logger
	host host.Host
	dht  *dht.IpfsDHT

	announcer *announcer
	known     *knownPeers
	keeper    *keeper

	closeOnce sync.Once
	closeErr  error
	mu        sync.Mutex
	stop      context.CancelFunc // ends Run
	running   chan struct{}      // closed when Run has ended its goroutines; nil before Run
	closed    bool
}

// New builds a host and starts to listen. Nothing is dialled or announced
// before Run. If Run is never called, Close must be.
func New(ctx context.Context, cfg Config) (*Host, error) {
	if cfg.Identity == nil {
		return nil, errors.New("p2p: no identity given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Datastore == nil {
		cfg.Datastore = newMemStore()
	}
	if len(cfg.Listen) == 0 {
		cfg.Listen = DefaultListen()
	}
	h := &Host{cfg: cfg, log: cfg.Log}
	if err := h.open(ctx); err != nil {
		return nil, errors.Join(err, h.closeParts())
	}
	return h, nil
}

// open builds the parts of h, in the order in which they need one another.
func (h *Host) open(ctx context.Context) error {
	var err error
	if h.host, h.dht, err = newLibp2p(h.cfg); err != nil {
		return err
	}
	if h.known, err = loadKnownPeers(h.cfg.KnownPeersFile, h.log); err != nil {
		return err
	}
	if h.announcer, err = newAnnouncer(ctx, h.host, h.dht, h.cfg); err != nil {
		return err
	}
	h.keeper = newKeeper(h.host, h.cfg.Peers, h.known, h.log)
	return nil
}

// Run keeps the host connected and its keys announced until ctx ends, then
// closes the host and returns when all goroutines have ended. The error is nil
// if all was closed well.
func (h *Host) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	if h.closed || h.running != nil {
		h.mu.Unlock()
		return errors.New("p2p: host is closed or runs already")
	}
	h.stop, h.running = cancel, make(chan struct{})
	h.mu.Unlock()

	var wg sync.WaitGroup
	wg.Go(func() { h.keeper.run(ctx) })
	wg.Go(func() { h.announcer.run(ctx) })
	wg.Go(func() { h.known.run(ctx, h.host) })
	if h.cfg.MDNS {
		wg.Go(func() { runMDNS(ctx, h.host, h.keeper, h.log) })
	}
	h.log.Info("network up", "peer", h.ID(), "listen", h.host.Addrs(), "private", h.cfg.SwarmKey != nil)
	wg.Wait()
	close(h.running)
	return h.Close()
}

// Close ends Run and closes everything. It may be called more than once.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	stop, running := h.stop, h.running
	h.mu.Unlock()
	if running != nil {
		stop()
		<-running
	}
	h.closeOnce.Do(func() { h.closeErr = h.closeParts() })
	return h.closeErr
}

// closeParts closes what open built, last first.
func (h *Host) closeParts() error {
	var errs []error
	if h.announcer != nil {
		errs = append(errs, h.announcer.close())
	}
	if h.dht != nil {
		errs = append(errs, h.dht.Close())
	}
	if h.host != nil {
		errs = append(errs, h.host.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close host: %w", err)
	}
	return nil
}

// ID returns the peer ID of this node.
func (h *Host) ID() peer.ID { return h.host.ID() }

// Libp2p returns the libp2p host, for protocols to work on. Only h closes it.
func (h *Host) Libp2p() host.Host { return h.host }

// Addrs returns the addresses others can reach this node at, each ending in
// /p2p/<ID>.
func (h *Host) Addrs() []ma.Multiaddr {
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.ID(), Addrs: h.host.Addrs()})
	if err != nil {
		h.log.Error("addresses of this node", "err", err)
	}
	return addrs
}

// Connect connects to a peer, at the addresses given or known.
func (h *Host) Connect(ctx context.Context, p peer.AddrInfo) error {
	if err := h.host.Connect(ctx, p); err != nil {
		return fmt.Errorf("connect to %s: %w", p.ID, err)
	}
	return nil
}

// Ping returns the time of a round trip to a peer.
func (h *Host) Ping(ctx context.Context, p peer.ID) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case r := <-ping.Ping(ctx, h.host, p):
		if r.Error != nil {
			return 0, fmt.Errorf("ping %s: %w", p, r.Error)
		}
		return r.RTT, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("ping %s: %w", p, ctx.Err())
	}
}
