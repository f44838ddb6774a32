package p2p

import (
	"context"
	"sync/atomic"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"
)

// DefaultAnnounceRate is how many records of chunks a node sends a second at
// most, unless told otherwise. See "What announcing costs" in
// docs/protocol.md.
const DefaultAnnounceRate = 5000

// paceLot is how many messages go at once, and then none for a while: to wait
// for each would cost the processor twice as much.
const paceLot = 256

// countedSender sends messages of the DHT and counts them.
type countedSender struct {
	pb.MessageSender
	messages, bytes atomic.Uint64
}

// SendMessage sends m.
func (s *countedSender) SendMessage(ctx context.Context, p peer.ID, m *pb.Message) error {
	s.messages.Add(1)
	s.bytes.Add(uint64(proto.Size(m)))
	return s.MessageSender.SendMessage(ctx, p, m)
}

// pacedSender sends no more than so many messages a second.
type pacedSender struct {
	pb.MessageSender
	counted *countedSender
	lots    *rate.Limiter
	turn    chan struct{} // held by who may look at left, or waits for a lot
	left    int           // of the lot
}

func newPacedSender(to pb.MessageSender, perSecond int) *pacedSender {
	if perSecond <= 0 {
		perSecond = DefaultAnnounceRate
	}
	counted := &countedSender{MessageSender: to}
	return &pacedSender{MessageSender: counted, counted: counted,
		lots: rate.NewLimiter(rate.Limit(perSecond), paceLot), turn: make(chan struct{}, 1)}
}

// SendMessage sends m when its turn has come.
func (s *pacedSender) SendMessage(ctx context.Context, p peer.ID, m *pb.Message) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
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
