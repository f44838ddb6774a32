// Package node wires the parts into one node: the store, the network, the
// mounts, and the operations that commands ask for (api.Service).
//
// It owns no format and no protocol. What it adds is the way of a read (get.go),
// what is kept announced (announce.go), which flists are held (pins.go), and
// the operations, one file each.
//
// A Node may be used from many goroutines at once.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/flistnode/flistnode/p2p/hint"
	"github.com/flistnode/flistnode/p2p/limit"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/flistnode/flistnode/p2p/swarm"
)

// Node is one node. New opens it, Run lets it work, Close gives everything
// back.
type Node struct {
	cfg         Config
	log         *slog.Logger
	started     time.Time
	findTimeout time.Duration // after which the swarm gives a chunk up

	store     *chunkstore.Store
	host      *p2p.Host
	server    *exchange.Server
	client    *exchange.Client
	hints     *hint.Server
	swarm     *swarm.Swarm
	offences  *offence.Book
	limits    limits
	announcer *announcer
	cache     *cache
	flights   flights[flightKey, []byte]
	images    *images
	tables    *savedTables
	mounts    *mounts
	keeping   keeping
	wishes    *wishes

	keepWarned  atomic.Int64 // when it was last said that chunks cannot be kept, in Unix seconds
	running     atomic.Bool
	closed      atomic.Bool
	handingOver atomic.Bool // mounts are left to the next daemon
}

var (
	_ api.Service  = (*Node)(nil)
	_ chunk.Source = source{}
)

// New opens the data directory and the network. The node listens, but reads
// nothing from peers and announces nothing before Run. The error matches
// api.ErrInUse when another process has the data directory.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Node, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: log, started: time.Now(), findTimeout: min(cfg.ReadTimeout, cfg.FetchTimeout)}
	n.mounts = newMounts(cfg.KeepMounts)
	n.tables = newSavedTables(filepath.Join(cfg.Data, tablesDirName), log)
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// open makes the parts, each of which needs those before it.
func (n *Node) open(ctx context.Context) error {
	if err := n.openData(); err != nil {
		return err
	}
	var err error
	if n.cache, err = newCache(n.cfg.CacheBytes); err != nil {
		return err
	}
	if n.images, err = newImages(); err != nil {
		return err
	}
	if err := n.openStore(); err != nil {
		return err
	}
	if err := n.openHost(ctx); err != nil {
		return err
	}
	return n.openSwarm()
}

// Names in the data directory.
const (
	storeDir      = "store"
	tempDirName   = "tmp"
	mountsDirName = "mounts"
	tablesDirName = "tables"
	identityFile  = "identity.key"
	knownPeerFile = "peers.json"
)

// openData makes the data directory.
func (n *Node) openData() error {
	if err := os.MkdirAll(n.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	return nil
}

func (n *Node) tempDir() string { return filepath.Join(n.cfg.Data, tempDirName) }

// mountsDir is where the parts of writable mounts are.
func (n *Node) mountsDir() string { return filepath.Join(n.cfg.Data, mountsDirName) }

// openStore opens the store and, now that nobody else has the data directory,
// removes what a node that died left in the directory of temporary files.
func (n *Node) openStore() error {
	store, err := chunkstore.Open(filepath.Join(n.cfg.Data, storeDir), chunkstore.Options{
		Log: n.log,
		OnPut: func(id chunk.ID) {
			n.swarm.Came(id)
			n.announcer.came(id)
		},
		OnDelete: func(id chunk.ID) {
			n.swarm.Went(id)
			n.announcer.went(id)
		},
	})
	var inUse *chunkstore.InUseError
	if errors.As(err, &inUse) {
		return api.WithCode(api.InUse, err)
	}
	if err != nil {
		return err
	}
	n.store = store
	if n.wishes, err = loadWishes(store, n.cfg.ReplicateGrace); err != nil {
		return err
	}
	if err := os.RemoveAll(n.tempDir()); err != nil {
		return fmt.Errorf("empty directory of temporary files: %w", err)
	}
	if err := os.Mkdir(n.tempDir(), 0o700); err != nil {
		return fmt.Errorf("make directory of temporary files: %w", err)
	}
	return nil
}

func (n *Node) openHost(ctx context.Context) error {
	key, err := p2p.LoadIdentity(filepath.Join(n.cfg.Data, identityFile))
	if err != nil {
		return err
	}
	peers, err := peerInfos(n.cfg.Peers)
	if err != nil {
		return err
	}
	var swarmKey []byte
	if n.cfg.SwarmKey != "" {
		if swarmKey, err = os.ReadFile(n.cfg.SwarmKey); err != nil {
			return api.WithCode(api.Invalid, fmt.Errorf("read swarm key: %w", err))
		}
	}
	n.host, err = p2p.New(ctx, p2p.Config{
		Identity: key, Listen: n.cfg.Listen, Peers: peers, SwarmKey: swarmKey, MDNS: n.cfg.MDNS,
		KnownPeersFile: filepath.Join(n.cfg.Data, knownPeerFile), Datastore: n.store.Datastore("/dht"),
		UserAgent: "flistnode/" + n.cfg.Version, Log: n.log,
		Holds: n.store.Has,
	})
	if errors.Is(err, p2p.ErrSwarmKey) {
		return api.WithCode(api.Invalid, fmt.Errorf("swarm key %s: %w", n.cfg.SwarmKey, err))
	}
	if err != nil {
		return err
	}
	n.announcer = newAnnouncer(n.host, n.cfg.Announce, n.log)
	return nil
}

func peerInfos(addrs []string) ([]peer.AddrInfo, error) {
	mas := make([]multiaddr.Multiaddr, 0, len(addrs))
	for _, a := range addrs {
		ma, err := multiaddr.NewMultiaddr(a)
		if err != nil {
			return nil, fmt.Errorf("peer %q: %w", a, err)
		}
		mas = append(mas, ma)
	}
	return peer.AddrInfosFromP2pAddrs(mas...)
}

func (n *Node) openSwarm() error {
	n.offences = offence.NewBook(n.log)
	n.limits = limits{up: limit.New(n.cfg.UploadLimit), down: limit.New(n.cfg.DownloadLimit)}
	n.client = exchange.NewClient(n.host.Libp2p(), exchange.ClientConfig{Log: n.log, Offences: n.offences})
	n.hints = hint.NewServer(n.host.Libp2p(), n.tellProfile, n.log)
	var err error
	n.swarm, err = swarm.New(swarm.Config{
		Asker: n.client, Finder: n.host, Self: n.host.ID(), FindTimeout: n.findTimeout, Log: n.log,
		Recycle: chunk.Recycle,
		Arrived: n.client.Arrived,
		Teller:  n.client, Held: n.held, Site: n.cfg.Site, OnLAN: n.host.OnLAN, Address: n.host.AddressOf,
		Download: n.limits.down, Unreached: n.unreached, Offences: n.offences, Private: n.cfg.SwarmKey != "", Wished: n.wished(),
		Connected: func() []peer.ID { return n.host.Libp2p().Network().Peers() },
		Served: func() map[peer.ID]exchange.ServerStats {
			_, peers := n.server.Stats()
			return peers
		},
	})
	if err != nil {
		return err
	}
	n.server = exchange.NewServer(n.host.Libp2p(), n.store, exchange.ServerConfig{
		Log: n.log, Heard: n.swarm.Hear, Recycle: chunk.Recycle, Upload: n.limits.up, Offences: n.offences,
	})
	return nil
}

// HandOver makes the node leave its mounts to the next daemon of its data
// directory when it stops, as far as somebody keeps their connections; what
// they are asked meanwhile waits for that daemon. It is called before Run's
// context ends, by a process that ends after Close.
func (n *Node) HandOver() { n.handingOver.Store(true) }

// Run lets the node work until ctx ends, or until a part of it fails. Before
// it returns it has unmounted what is mounted, and everything but the store
// has ended. It may be called once.
func (n *Node) Run(ctx context.Context) error {
	if n.running.Swap(true) {
		return errors.New("node: Run called twice")
	}
	// The network outlives ctx, so that mounts can go in order.
	netCtx, stopNet := context.WithCancel(context.WithoutCancel(ctx))
	defer stopNet()
	g, gctx := errgroup.WithContext(netCtx)
	g.Go(func() error { return n.host.Run(gctx) })
	g.Go(func() error { return n.swarm.Run(gctx) })
	g.Go(func() error { return n.announcer.run(gctx, n.store, n.roots) })
	g.Go(func() error {
		if n.cfg.KeepMounts {
			n.wishHeldTables(gctx)
		}
		n.saveTables(gctx)
		return nil
	})
	if n.cfg.KeepCopies {
		g.Go(func() error {
			n.keepCopies(gctx)
			return nil
		})
	}
	if n.cfg.KeepMounts {
		g.Go(func() error {
			n.restore(gctx)
			return nil
		})
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-gctx.Done():
		}
		err := n.mounts.close(n.handingOver.Load())
		stopNet()
		return err
	})
	n.log.Info("node runs", "peer", n.host.ID(), "addrs", n.addrs(), "data", n.cfg.Data)
	return g.Wait()
}

// Close ends what Run has not ended and closes the store. Run must have
// returned, or never been called. A second Close does nothing.
func (n *Node) Close() error {
	if n.closed.Swap(true) {
		return nil
	}
	errs := []error{n.mounts.close(n.handingOver.Load()), n.closeKeeper()}
	if n.client != nil {
		errs = append(errs, n.client.Close())
	}
	if n.server != nil {
		errs = append(errs, n.server.Close())
	}
	if n.hints != nil {
		errs = append(errs, n.hints.Close())
	}
	if n.swarm != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		errs = append(errs, n.swarm.Run(ended)) // ends it
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	if n.images != nil {
		n.images.close()
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}
