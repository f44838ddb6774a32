package fabric

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// end is one end of a link.
type end struct {
	space *namespace
	name  string
}

// Link is a cable between two namespaces. Without a delay it is a veth pair,
// with one a pair of TAP devices and a wire between them.
type Link struct {
	near, far end
	wire      *wire // nil without a delay

	mu    sync.Mutex
	shape Shape
	cut   bool
}

func newLink(near, far end, shape Shape) (*Link, error) {
	l := &Link{near: near, far: far, shape: shape}
	if shape.Delay > 0 {
		w, err := newWire(near, far, shape.Delay)
		if err != nil {
			return nil, err
		}
		l.wire = w
	} else if err := addVeth(near, far); err != nil {
		return nil, err
	}
	if err := l.apply(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func addVeth(near, far end) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = near.name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: far.name, PeerNamespace: netlink.NsFd(far.space.handle)}
	if err := near.space.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("make link %s-%s: %w", near.name, far.name, err)
	}
	return nil
}

// Cut drops everything on the link, both ways and without a word, until Heal.
// Addresses and routes stay.
func (l *Link) Cut() error { return l.change(func() { l.cut = true }) }

// Heal ends a Cut.
func (l *Link) Heal() error { return l.change(func() { l.cut = false }) }

// SetRate changes the rate both ways, in bits per second; 0 means no limit.
func (l *Link) SetRate(bitsPerSecond int64) error {
	return l.change(func() { l.shape.BitsPerSecond = bitsPerSecond })
}

// Shape returns the present shape.
func (l *Link) Shape() Shape {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shape
}

func (l *Link) change(how func()) error {
	l.mu.Lock()
	how()
	l.mu.Unlock()
	return l.apply()
}

// Counters returns what went through the link since it was made. What a cut
// link dropped on the way out is not in it.
func (l *Link) Counters() (Counters, error) {
	near, err := l.near.stats()
	if err != nil {
		return Counters{}, err
	}
	return Counters{SentBytes: near.TxBytes, ReceivedBytes: near.RxBytes}, nil
}

func (e end) stats() (*netlink.LinkStatistics, error) {
	link, err := e.space.nl.LinkByName(e.name)
	if err != nil {
		return nil, fmt.Errorf("counters of %s: %w", e.name, err)
	}
	return link.Attrs().Statistics, nil
}

// apply makes the queues of both ends what shape and cut ask for: each limits
// what leaves through it.
func (l *Link) apply() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range []end{l.near, l.far} {
		link, err := e.space.nl.LinkByName(e.name)
		if err != nil {
			return fmt.Errorf("shape link %s: %w", e.name, err)
		}
		attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
		var q netlink.Qdisc
		switch {
		case l.cut:
			attrs.Handle = netlink.MakeHandle(2, 0)
			q = &netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "blackhole"}
		case l.shape.BitsPerSecond > 0:
			q = tokenBucket(attrs, l.shape.BitsPerSecond)
		default:
			attrs.Handle = netlink.MakeHandle(3, 0)
			q = &netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "pfifo"}
		}
		if err := e.space.nl.QdiscReplace(q); err != nil {
			return fmt.Errorf("shape link %s with %s: %w", e.name, q.Type(), err)
		}
	}
	return nil
}

const (
	// burstBytes is more than the largest packet a veth carries, 64 KiB, with
	// the headers of all the frames it stands for, as a queue counts it; what is
	// larger the kernel takes apart, frame by frame, which costs the nodes a fifth
	// of their processor time. At 100 Mbit/s it is gone in 6 ms.
	burstBytes = 72 << 10
	// queueTime is how much a link queues before it drops.
	queueTime = 50 * time.Millisecond
)

// tokenBucket returns the queue that lets bitsPerSecond through.
func tokenBucket(attrs netlink.QdiscAttrs, bitsPerSecond int64) *netlink.Tbf {
	bytesPerSecond := uint64(max(bitsPerSecond/8, 1))
	limit := max(uint64(float64(bytesPerSecond)*queueTime.Seconds()), burstBytes) + burstBytes
	return &netlink.Tbf{QdiscAttrs: attrs, Rate: bytesPerSecond, Limit: uint32(min(limit, 1<<30)),
		Buffer: netlink.Xmittime(bytesPerSecond, burstBytes)}
}

func (l *Link) close() error {
	if l.wire == nil {
		return nil // goes with its namespaces
	}
	return l.wire.close()
}
