package p2p

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
)

const (
	// enoughPeers is how many connections the keeper is content with; the DHT
	// finds the others.
	enoughPeers   = 4
	keeperTick    = 500 * time.Millisecond
	keeperDials   = 8 // at a time
	redialFirst   = time.Second
	redialMax     = time.Minute
	maxFoundPeers = 64 // waiting to be dialled
	maxCandidates = 512
)

// keeper keeps the node connected: it dials bootstrap peers, peers known from
// before and peers found on the LAN, again and again while there are few.
type keeper struct {
	host      host.Host
	log       *slog.Logger
	bootstrap map[peer.ID]bool
	found     chan peer.AddrInfo // from the LAN
	done      chan dialResult

	candidates map[peer.ID]*candidate // only run touches it

	mu     sync.Mutex
	failed map[peer.ID]error // bootstrap peers whose last dial failed
}

type candidate struct {
	info    peer.AddrInfo
	order   int       // of becoming a candidate
	next    time.Time // not dialled before; zero: dialled however many are connected
	wait    time.Duration
	dialing bool
}

type dialResult struct {
	id  peer.ID
	err error
}

func newKeeper(h host.Host, bootstrap []peer.AddrInfo, known *knownPeers, log *slog.Logger) *keeper {
	k := &keeper{
		host: h, log: log, bootstrap: map[peer.ID]bool{},
		found: make(chan peer.AddrInfo, maxFoundPeers), done: make(chan dialResult),
		candidates: map[peer.ID]*candidate{}, failed: map[peer.ID]error{},
	}
	for _, p := range bootstrap {
		k.bootstrap[p.ID] = true
		k.add(peer.AddrInfo{ID: p.ID, Addrs: alsoByQUIC(p.Addrs)})
	}
	for _, p := range known.list() {
		if c := k.add(p); c != nil && !k.bootstrap[p.ID] {
			c.next = time.Now() // only while there are few
		}
	}
	return k
}

// add makes p a candidate, or adds its addresses to it.
func (k *keeper) add(p peer.AddrInfo) *candidate {
	c := k.candidates[p.ID]
	if c == nil {
		if p.ID == k.host.ID() || len(k.candidates) >= maxCandidates {
			return nil
		}
		c = &candidate{info: peer.AddrInfo{ID: p.ID}, order: len(k.candidates)}
		k.candidates[p.ID] = c
	}
	for _, a := range p.Addrs {
		if len(c.info.Addrs) < 2*maxKnownAddrs && !containsAddr(c.info.Addrs, a) {
			c.info.Addrs = append(c.info.Addrs, a)
		}
	}
	return c
}

// HandlePeerFound takes a peer found on the LAN. It never blocks.
func (k *keeper) HandlePeerFound(p peer.AddrInfo) {
	select {
	case k.found <- p:
	default: // the LAN repeats itself
	}
}

// run dials until ctx ends, and returns when no dial runs any more.
func (k *keeper) run(ctx context.Context) {
	var dials sync.WaitGroup
	defer dials.Wait()
	running := 0
	tick := time.NewTicker(keeperTick)
	defer tick.Stop()
	for {
		for _, c := range k.due(time.Now(), keeperDials-running) {
			c.dialing = true
			running++
			dials.Go(func() { k.dial(ctx, c.info) })
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case r := <-k.done:
			running--
			k.dialled(r)
		case p := <-k.found:
			// Whoever is on our LAN is worth a connection at once.
			if c := k.add(p); c != nil && !c.dialing {
				c.next, c.wait = time.Time{}, 0
			}
		}
	}
}

// due returns up to n candidates to dial now, those that failed least first,
// then those that were candidates first.
func (k *keeper) due(now time.Time, n int) (out []*candidate) {
	connected := len(k.host.Network().Peers())
	for id, c := range k.candidates {
		if c.dialing || now.Before(c.next) || k.host.Network().Connectedness(id) == network.Connected {
			continue
		}
		// A bootstrap peer is always wanted, and so is one just found.
		if connected >= enoughPeers && !k.bootstrap[id] && !c.next.IsZero() {
			continue
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.wait, b.wait), cmp.Compare(a.order, b.order))
	})
	return out[:min(len(out), n)]
}

func (k *keeper) dial(ctx context.Context, p peer.AddrInfo) {
	if s, ok := k.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(p.ID) // the keeper has a backoff of its own
	}
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	err := k.host.Connect(dctx, p)
	cancel()
	select {
	case k.done <- dialResult{p.ID, err}:
	case <-ctx.Done():
	}
}

// dialled notes how a dial ended and when to try again if need be.
func (k *keeper) dialled(r dialResult) {
	c := k.candidates[r.id]
	c.dialing = false
	k.note(r)
	if r.err == nil {
		c.wait = 0
		c.next = time.Now().Add(redialFirst)
		k.log.Info("peer connected", "peer", r.id)
		return
	}
	if c.wait == 0 {
		k.log.Info("peer cannot be reached, trying again", "peer", r.id, "err", r.err)
	}
	c.wait = min(max(2*c.wait, redialFirst), redialMax)
	c.next = time.Now().Add(c.wait/2 + rand.N(c.wait/2))
}

// note remembers how the last dial of a bootstrap peer ended.
func (k *keeper) note(r dialResult) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.err != nil && k.bootstrap[r.id] {
		k.failed[r.id] = r.err
	} else {
		delete(k.failed, r.id)
	}
}

// Unreached is a peer to begin with that this node is not connected to.
type Unreached struct {
	ID  peer.ID
	Err error // of the last attempt
}

// Unreached returns the peers of Config.Peers that could not be reached when
// last tried, ordered by ID.
func (h *Host) Unreached() (out []Unreached) {
	h.keeper.mu.Lock()
	defer h.keeper.mu.Unlock()
	for id, err := range h.keeper.failed {
		if h.host.Network().Connectedness(id) != network.Connected {
			out = append(out, Unreached{id, err})
		}
	}
	slices.SortFunc(out, func(a, b Unreached) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// runMDNS finds peers on the LAN until ctx ends. It starts anew when the
// addresses of this node change, and while there is no network to use.
func runMDNS(ctx context.Context, h host.Host, k *keeper, log *slog.Logger) {
	sub, err := h.EventBus().Subscribe(new(event.EvtLocalAddressesUpdated), eventbus.BufSize(1))
	if err != nil {
		log.Error("peers on the LAN are not looked for", "err", err)
		return
	}
	defer sub.Close()
	for ctx.Err() == nil {
		service := mdns.NewMdnsService(h, ServiceName, k)
		retry := 10 * time.Minute // listens to what the network became meanwhile
		if err := service.Start(); err != nil {
			log.Warn("peers on the LAN cannot be looked for now, trying again", "err", err)
			retry = 30 * time.Second
		}
		timer := time.NewTimer(retry)
		select {
		case <-ctx.Done():
		case <-sub.Out():
		case <-timer.C:
		}
		timer.Stop()
		_ = service.Close()
	}
}
