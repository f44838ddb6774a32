package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/routing"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	"google.golang.org/protobuf/proto"
)

// Watermarks of the connection manager. Peers in use are protected from it.
const (
	connsLow    = 256
	connsHigh   = 384
	connsGrace  = 30 * time.Second
	maxConns    = 1024 // hard limit, of either direction together
	maxPerIP    = 512  // a whole site may stand behind one address
	maxPerNet   = 768  // and an attacker have a network of them: /24, or /48 of IPv6
	maxStreams  = 16384
	maxMemory   = 1 << 30 // bytes of receive windows that may be open
	dialTimeout = 10 * time.Second
)

// networkBits6 is how much of an IPv6 address counts as one: what one customer
// has.
const networkBits6 = 56

// bucketSize is Kademlia's k: to how many peers a record goes.
const bucketSize = 20

// newLibp2p builds the libp2p host and, inside it, the DHT it finds peers by.
func newLibp2p(cfg Config) (host.Host, *dht.IpfsDHT, error) {
	conns, err := connmgr.NewConnManager(connsLow, connsHigh, connmgr.WithGracePeriod(connsGrace))
	if err != nil {
		return nil, nil, fmt.Errorf("connection manager: %w", err)
	}
	limits, err := newResourceManager()
	if err != nil {
		return nil, nil, fmt.Errorf("resource manager: %w", err)
	}
	agent := cfg.UserAgent
	if agent == "" {
		agent = "flistnode"
	}
	opts := []libp2p.Option{
		libp2p.Identity(cfg.Identity),
		libp2p.UserAgent(agent),
		libp2p.ConnectionManager(conns),
		libp2p.ResourceManager(limits),
		libp2p.Security(libp2ptls.ID, newTLS), // first: AES is several times as fast as Noise's ChaCha20
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.SwarmOpts(swarm.WithDialRanker(rankDials)),
	}
	network, err := networkOptions(cfg)
	if err != nil {
		return nil, nil, err
	}
	var d *dht.IpfsDHT
	opts = append(opts, network...)
	opts = append(opts, libp2p.Routing(func(h host.Host) (routing.PeerRouting, error) {
		d, err = newDHT(h, cfg)
		return d, err
	}))
	h, err := libp2p.New(opts...)
	if err != nil {
		if d != nil {
			_ = d.Close()
		}
		return nil, nil, fmt.Errorf("start network on %s: %w", strings.Join(cfg.Listen, ", "), err)
	}
	return h, d, nil
}

// ErrSwarmKey says that Config.SwarmKey is not the content of such a file.
var ErrSwarmKey = errors.New("not a swarm key: want the lines /key/swarm/psk/1.0.0/, /base16/ and 64 hexadecimal digits")

// networkOptions returns what differs between a public network and one with a
// pre-shared key, which QUIC cannot have.
func networkOptions(cfg Config) ([]libp2p.Option, error) {
	if cfg.SwarmKey == nil {
		return []libp2p.Option{
			libp2p.ListenAddrStrings(cfg.Listen...),
			libp2p.Transport(quic.NewTransport),
		}, nil
	}
	psk, err := pnet.DecodeV1PSK(bytes.NewReader(cfg.SwarmKey))
	if err != nil {
		return nil, ErrSwarmKey // err may hold a part of the key
	}
	listen := withoutUDP(cfg.Listen, cfg.Log)
	if len(listen) == 0 {
		return nil, fmt.Errorf("no TCP address to listen on: a private network cannot use QUIC (%s)",
			strings.Join(cfg.Listen, ", "))
	}
	return []libp2p.Option{libp2p.ListenAddrStrings(listen...), libp2p.PrivateNetwork(psk)}, nil
}

func withoutUDP(addrs []string, log *slog.Logger) (kept []string) {
	for _, a := range addrs {
		if strings.Contains(a, "/udp/") {
			log.Warn("private network: not listening by QUIC, which cannot carry a pre-shared key", "addr", a)
			continue
		}
		kept = append(kept, a)
	}
	return kept
}

// newDHT starts the DHT in server mode: a node that waits to be told that it
// can be reached from outside would wait for ever on a site without uplink.
// No address is filtered out, for the same reason.
func newDHT(h host.Host, cfg Config) (*dht.IpfsDHT, error) {
	opts := []dht.Option{
		dht.Mode(dht.ModeServer),
		dht.ProtocolPrefix(DHTPrefix),
		dht.BucketSize(bucketSize),
		dht.DisableValues(),
		dht.BootstrapPeers(),
	}
	if cfg.Holds == nil {
		opts = append(opts, dht.ProviderDatastore(cfg.Datastore))
	} else {
		opts = append(opts, dht.ProviderDatastore(newOwnRecords(cfg.Datastore, h.ID(), cfg.Holds)),
			dht.ProviderManagerOpts(records.Cache(noCache{})))
	}
	if cfg.OnDHTRequest != nil {
		opts = append(opts, dht.OnRequestHook(func(_ context.Context, _ network.Stream, m *pb.Message) {
			cfg.OnDHTRequest(m.GetType().String(), proto.Size(m))
		}))
	}
	d, err := dht.New(h, opts...)
	if err != nil {
		return nil, fmt.Errorf("start DHT: %w", err)
	}
	return d, nil
}

// newResourceManager raises libp2p's limits, which are meant for a node among
// strangers, to what a site of edge nodes needs. They stay finite.
func newResourceManager() (network.ResourceManager, error) {
	scaled := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&scaled)
	many := rcmgr.ResourceLimits{
		Streams: maxStreams, StreamsInbound: maxStreams, StreamsOutbound: maxStreams,
		Conns: maxConns, ConnsInbound: maxConns, ConnsOutbound: maxConns,
		FD: maxConns, Memory: maxMemory,
	}
	perPeer := rcmgr.ResourceLimits{
		Streams: 1024, StreamsInbound: 1024, StreamsOutbound: 1024,
		Conns: 16, ConnsInbound: 16, ConnsOutbound: 16, FD: 16, Memory: maxMemory / 4,
	}
	perProtocol := many
	perProtocol.Conns, perProtocol.ConnsInbound, perProtocol.ConnsOutbound, perProtocol.FD = 0, 0, 0, 0
	perProtocolPeer := perProtocol
	perProtocolPeer.Streams, perProtocolPeer.StreamsInbound, perProtocolPeer.StreamsOutbound = 512, 512, 512
	perProtocolPeer.Memory = maxMemory / 4
	cfg := rcmgr.PartialLimitConfig{
		System: many, Transient: rcmgr.ResourceLimits{
			Streams: 1024, StreamsInbound: 1024, StreamsOutbound: 1024,
			Conns: 256, ConnsInbound: 256, ConnsOutbound: 256, FD: 256, Memory: maxMemory / 4,
		},
		PeerDefault: perPeer, ProtocolDefault: perProtocol, ProtocolPeerDefault: perProtocolPeer,
	}
	perIP := func(address, network int) []rcmgr.ConnLimitPerSubnet {
		return []rcmgr.ConnLimitPerSubnet{{PrefixLength: address, ConnCount: maxPerIP}, {PrefixLength: network, ConnCount: maxPerNet}}
	}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(cfg.Build(scaled.AutoScale())),
		rcmgr.WithLimitPerSubnet(perIP(32, 24), perIP(networkBits6, 48)),
		rcmgr.WithConnRateLimiters(&rate.Limiter{}),
		rcmgr.WithMetricsDisabled())
}
