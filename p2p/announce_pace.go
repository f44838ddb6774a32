package p2p

import (
	"context"
	"sync"
	"sync/atomic"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/flistnode/flistnode/flist/chunk"
)

// DefaultAnnounceRate is how many records of chunks a node sends a second at
// most, unless told otherwise. See "What announcing costs" in
// docs/protocol.md.
const DefaultAnnounceRate = 5000

// paceLot is how many messages go at once, and then none for a while: to wait
// for each would cost three times the processor.
const paceLot = 256

// pacedSender sends the provider's messages, no more than so many a second, and
// counts them. The records of flists' roots do not wait.
type pacedSender struct {
	pb.MessageSender
	lots            *rate.Limiter
	messages, bytes atomic.Uint64

	turn chan struct{} // held by who may look at left, or waits for a lot
	left int           // of the lot

	mu     sync.RWMutex
	urgent map[chunk.ID]bool
}

func newPacedSender(to pb.MessageSender, perSecond int) *pacedSender {
	if perSecond <= 0 {
		perSecond = DefaultAnnounceRate
	}
	return &pacedSender{MessageSender: to, lots: rate.NewLimiter(rate.Limit(perSecond), paceLot),
		turn: make(chan struct{}, 1), urgent: map[chunk.ID]bool{}}
}

// hurry says whether the record of id shall not wait.
func (s *pacedSender) hurry(urgent bool, id chunk.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if urgent {
		s.urgent[id] = true
	} else {
		delete(s.urgent, id)
	}
}

func (s *pacedSender) isUrgent(key []byte) bool {
	id, err := chunk.FromMultihash(key)
	if err != nil {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.urgent[id]
}

// SendMessage sends m when its turn has come.
func (s *pacedSender) SendMessage(ctx context.Context, p peer.ID, m *pb.Message) error {
	if !s.isUrgent(m.Key) {
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
	s.messages.Add(1)
	s.bytes.Add(uint64(proto.Size(m)))
	return s.MessageSender.SendMessage(ctx, p, m)
}

// wait returns when one more message may go.
func (s *pacedSender) wait(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.left == 0 {
		if err := s.lots.WaitN(ctx, paceLot); err != nil {
			return err
		}
		s.left = paceLot
	}
	s.left--
	return nil
}
