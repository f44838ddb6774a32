// Package swarm gets chunks from the network: it knows who may have what,
// whom to ask first, when to ask somebody else, and whom not to ask for a
// while.
//
// It keeps no chunks and moves no bytes itself: it asks through an Asker
// (p2p/exchange) and looks up providers through a Finder (p2p). Everything it
// returns is verified.
//
// A chunk wanted by many is fetched once. The fetch belongs to the swarm: a
// waiter whose context ends leaves, the others still get the chunk, and when
// the last one has left the fetch ends. A Swarm may be used from many
// goroutines at once.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/flistnode/flistnode/p2p/limit"
	"github.com/flistnode/flistnode/p2p/offence"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Class says how urgent a chunk is.
type Class = exchange.Class

// The classes, most urgent first.
const (
	Waiting     = exchange.Waiting
	Readahead   = exchange.Readahead
	Prefetch    = exchange.Prefetch
	Replication = exchange.Replication
)

// Asker asks one peer for one chunk. Its errors are those of exchange.Client;
// the content of what it returns need not be verified.
type Asker interface {
	Get(ctx context.Context, p peer.ID, id chunk.ID, class Class) (chunk.Packed, error)
}

// Finder looks up who announced a chunk. It closes the channel when it is done
// or ctx has ended.
type Finder interface {
	FindProviders(ctx context.Context, id chunk.ID, max int) <-chan peer.AddrInfo
}

// Config says what a Swarm works with. Asker and Finder must be given; another
// field that is zero takes its default.
type Config struct {
	Asker  Asker
	Finder Finder

	Self      peer.ID                                 // never asked
	Connected func() []peer.ID                        // asked when nobody is named as provider; may be nil
	Unreached func() []AskedPeer                      // peers to begin with that cannot be reached, for errors; may be nil
	Served    func() map[peer.ID]exchange.ServerStats // for Stats; may be nil

	Teller  Teller                                                                 // tells peers what is held here; nil: nobody is told
	Held    func(ctx context.Context, root chunk.ID) (ChunkTable, []uint32, error) // the table of an flist held here and the places held; may be nil
	Site    string                                                                 // name of this node's site
	Address func(peer.ID) string                                                   // what peers reached at one address have in common, "" if not known: they share bounds; may be nil
	OnLAN   func(peer.ID) bool                                                     // whether a peer without a site's name is at this site; nil: all are
	Private bool                                                                   // strangers cannot connect: a site's name is believed wherever it is told from
	Wished  func(peer.ID, Keep)                                                    // takes what peers of this site tell of wishes for copies; it must not block or use the swarm; may be nil

	Arrived func(p peer.ID, class Class) time.Time // when the last byte of an answer came from p; nil: only whole answers are seen

	Download *limit.Limit // of chunks received; nil: none
	Recycle  func([]byte) // takes back the bytes of a chunk from Asker when Download has delivered it; may be nil

	Offences *offence.Book // notes what peers do that they should not; nil: one of the swarm's own

	FindTimeout  time.Duration // 20 s: how long a chunk nobody gives is waited for
	StallTimeout time.Duration // 30 s without a whole answer from a peer; the Asker sees sooner that no byte comes
	ProviderTTL  time.Duration // 30 s: how long an answer of Finder is used
	MissingTTL   time.Duration // 3 s: how long "don't have" is believed
	MaxReads     int           // 512 Waiting and Readahead requests at a time; more wait
	MaxBulk      int           // 128 Prefetch and Replication requests at a time; more wait
	Parallel     int           // 64 chunks a FetchMany has in flight
	Log          *slog.Logger  // discards when nil
}

func (c *Config) setDefaults() {
	setDefault(&c.FindTimeout, 20*time.Second)
	setDefault(&c.StallTimeout, 30*time.Second)
	setDefault(&c.ProviderTTL, 30*time.Second)
	setDefault(&c.MissingTTL, 3*time.Second)
	setDefault(&c.MaxReads, 512)
	setDefault(&c.MaxBulk, 128)
	setDefault(&c.Parallel, 64)
	if c.Recycle == nil {
		c.Recycle = func([]byte) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Offences == nil {
		c.Offences = offence.NewBook(c.Log)
	}
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Hint says where a chunk is probably to be had. Both fields may be empty.
type Hint struct {
	Root  chunk.ID  // the flist it belongs to: its providers are asked first
	Peers []peer.ID // peers that are known to have it
}

// ErrEnded says that the swarm's Run has ended.
var ErrEnded = errors.New("swarm has ended")

// Swarm fetches chunks from other nodes. See the package comment.
type Swarm struct {
	cfg   Config
	spawn func(func(context.Context)) bool // false when the swarm has ended
	end   func()
	reads chan struct{} // slots
	bulk  chan struct{}

	peers     *peerBook
	providers *providerCache
	shares    *shares
	talkers   *talkers
	asked     askLog
	keeps     *keeps

	mu      sync.Mutex
	flights map[chunk.ID]*flight
}

var _ chunk.Source = (*Swarm)(nil)

// New returns a swarm that can be used at once. Run ends it.
func New(cfg Config) (*Swarm, error) {
	if cfg.Asker == nil || cfg.Finder == nil {
		return nil, errors.New("swarm: Asker and Finder must be given")
	}
	cfg.setDefaults()
	s := &Swarm{
		cfg:   cfg,
		reads: make(chan struct{}, cfg.MaxReads), bulk: make(chan struct{}, cfg.MaxBulk),
		peers: newPeerBook(cfg.Arrived), flights: map[chunk.ID]*flight{}, keeps: newKeeps(),
	}
	s.shares = newShares(s.address)
	s.talkers = &talkers{s: s, to: map[peer.ID]*talker{}}
	s.own()
	s.providers = newProviderCache(cfg.Finder, cfg.ProviderTTL, cfg.Self, s.spawn)
	return s, nil
}

// own makes spawn, which starts goroutines that belong to the swarm, and end,
// which ends them and waits for them.
func (s *Swarm) own() {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var wg sync.WaitGroup
	s.spawn = func(f func(context.Context)) bool {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
		wg.Go(func() { f(ctx) })
		return true
	}
	s.end = func() {
		mu.Lock()
		cancel()
		mu.Unlock()
		wg.Wait()
	}
}

// Run ends the swarm when ctx ends: what is in flight fails with ErrEnded. It
// returns when all goroutines have.
func (s *Swarm) Run(ctx context.Context) error {
	<-ctx.Done()
	s.end()
	return nil
}

// Get returns the verified content of a chunk somebody waits for. It is
// GetPacked for those who need no more.
func (s *Swarm) Get(ctx context.Context, id chunk.ID) ([]byte, error) {
	_, plain, err := s.GetPacked(ctx, id, Waiting)
	return plain, err
}

// GetPacked returns a chunk both as it came and as its verified plain content,
// so that it can be kept without compressing or hashing it again. Both are
// shared with other callers and must not be modified.
//
// The error is a *NotFoundError, which matches chunk.ErrNotFound, when nobody
// gave the chunk in time; otherwise it is ctx's or ErrEnded.
func (s *Swarm) GetPacked(ctx context.Context, id chunk.ID, class Class, hints ...Hint) (chunk.Packed, []byte, error) {
	slots := s.bulk
	if class <= Readahead {
		slots = s.reads
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return chunk.Packed{}, nil, fmt.Errorf("fetch %s: %w", id, ctx.Err())
	}
	if err := s.cfg.Download.Wait(ctx, laneOf(class) == urgent); err != nil {
		return chunk.Packed{}, nil, fmt.Errorf("fetch %s: %w", id, err)
	}
	f, err := s.join(id, class, hints)
	if err != nil {
		return chunk.Packed{}, nil, fmt.Errorf("fetch %s: %w", id, err)
	}
	defer s.leave(f)
	select {
	case <-f.done:
		return f.packed, f.plain, f.err
	case <-ctx.Done():
		return chunk.Packed{}, nil, fmt.Errorf("fetch %s: %w", id, ctx.Err())
	}
}

// maxLost is how many chunks nobody has FetchMany notes before it gives up.
const maxLost = 16

// FetchMany fetches all of ids, chunks of the flist root (the zero ID: of
// none), many at a time and from all peers that have them, in about the order
// given. It gives each to deliver, from several goroutines at once; an error
// of deliver ends it. Chunks nobody has do not keep it from fetching the
// others, up to a bound; the error then joins their *NotFoundErrors.
func (s *Swarm) FetchMany(ctx context.Context, ids []chunk.ID, root chunk.ID, class Class, deliver func(chunk.Packed, []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan chunk.ID)
	var mu sync.Mutex
	var lost []error
	var wg sync.WaitGroup
	for range min(s.cfg.Parallel, len(ids)) {
		wg.Go(func() {
			for id := range next {
				p, plain, err := s.GetPacked(ctx, id, class, Hint{Root: root})
				var gone *NotFoundError
				switch {
				case err == nil:
					if err := deliver(p, plain); err != nil {
						cancel(fmt.Errorf("deliver %s: %w", id, err))
					}
				case errors.As(err, &gone):
					mu.Lock()
					if lost = append(lost, err); len(lost) >= maxLost {
						cancel(errors.Join(lost...))
					}
					mu.Unlock()
				default:
					cancel(err) // the first cause stays
				}
			}
		})
	}
feed:
	for _, id := range ids {
		select {
		case next <- id:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return errors.Join(lost...)
}
