package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/provider"
)

// providers are the two sweeping providers of an announcer, which share
// nothing: roots do not stand behind chunks.
type providers struct {
	roots, chunks *provider.SweepingProvider
	began         time.Time
	peers         int // in the routing table then

	last  progress
	since time.Time // when that was new
}

// providerAge is how soon providers are replaced because the network has grown
// or shrunk: they measure that only once.
const providerAge = time.Minute

func newProviders(a *announcer, peers int) (*providers, error) {
	p := &providers{began: time.Now(), peers: peers}
	var err error
	if p.roots, err = newProvider(a, a.sender.counted); err == nil {
		p.chunks, err = newProvider(a, a.sender)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start provider: %w", err), p.close())
	}
	return p, nil
}

func newProvider(a *announcer, sender pb.MessageSender) (*provider.SweepingProvider, error) {
	return provider.New(
		provider.WithHost(a.host), provider.WithRouter(a.dht), provider.WithMessageSender(sender),
		provider.WithSelfAddrs(a.dht.FilteredAddrs),
		provider.WithKeystore(a.keys), provider.WithDatastore(newMemStore()),
		provider.WithReprovideInterval(0), // the announcer says when
		provider.WithResumeCycle(false), provider.WithOfflineDelay(offlineDelay),
		provider.WithConnectivityCheckOnlineInterval(time.Second),
	)
}

// outgrown reports whether the network has changed so much that they should be
// replaced.
func (p *providers) outgrown(peers int) bool {
	changed := peers*2 > p.peers*3 || peers*3 < p.peers*2
	return changed && time.Since(p.began) >= providerAge
}

// pending returns how many keys are not yet sent, and whether both take any:
// first they look how large the network is.
func (p *providers) pending(ctx context.Context) (n int, ready bool, err error) {
	ready = true
	for _, each := range []*provider.SweepingProvider{p.roots, p.chunks} {
		s, err := each.Stats(ctx)
		if err != nil {
			return 0, false, fmt.Errorf("statistics of announcing: %w", err)
		}
		n += int(s.Queues.PendingKeyProvides) + s.Operations.Ongoing.KeyProvides
		ready = ready && s.Schedule.AvgPrefixLength >= 0
	}
	return n, ready, nil
}

// stuckAfter is how long the same keys are waited for. A provider that could
// not reach enough peers tries again after 5 minutes, or when it is given more.
const stuckAfter = time.Minute

// progress changes as keys are announced.
type progress struct {
	pending int
	sent    uint64
}

// stuck reports whether nothing has changed for too long.
func (p *providers) stuck(at progress, now time.Time) bool {
	if at != p.last || p.since.IsZero() {
		p.last, p.since = at, now
	}
	return now.Sub(p.since) >= stuckAfter
}

func (p *providers) close() error {
	var errs []error
	for _, each := range []*provider.SweepingProvider{p.roots, p.chunks} {
		if each == nil {
			continue
		}
		if err := each.Close(); err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
