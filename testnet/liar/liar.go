// Package liar is a peer that does what no honest node does: it takes over the
// data directory and the identity of a node that has ended, announces all the
// node held, and then answers with wrong bytes, or not at all. It exists to
// test honest nodes against it.
//
// It fetches nothing and changes nothing in the store.
package liar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p"
	"github.com/flistnode/flistnode/p2p/exchange"
)

// How says what a liar does when it is asked for a chunk.
type How string

// What a liar can do.
const (
	Lie   How = "lie"   // answer with bytes that are not the chunk's
	Stall How = "stall" // take the request and never answer
)

// Config says how a liar is built.
type Config struct {
	Data   string   // data directory of a node that does not run
	Listen []string // multiaddrs
	Peers  []string // multiaddrs to begin with, ending in /p2p/ID
	How    How
	Log    *slog.Logger
}

// Run runs a liar until ctx ends. It calls ready with its addresses once it
// listens.
func Run(ctx context.Context, cfg Config, ready func(addrs []string)) (err error) {
	if cfg.How != Lie && cfg.How != Stall {
		return fmt.Errorf("a liar can %s or %s, not %q", Lie, Stall, cfg.How)
	}
	key, err := p2p.LoadIdentity(filepath.Join(cfg.Data, "identity.key"))
	if err != nil {
		return err
	}
	store, err := chunkstore.Open(filepath.Join(cfg.Data, "store"), chunkstore.Options{Log: cfg.Log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	peers, err := peerInfos(cfg.Peers)
	if err != nil {
		return err
	}
	h, err := p2p.New(ctx, p2p.Config{Identity: key, Listen: cfg.Listen, Peers: peers, Log: cfg.Log,
		MDNS: true, KnownPeersFile: filepath.Join(cfg.Data, "peers.json")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	server := exchange.NewServer(h.Libp2p(), answers{store, cfg.How}, exchange.ServerConfig{Log: cfg.Log})
	defer func() { err = errors.Join(err, server.Close()) }()

	err = store.Iterate(ctx, func(id chunk.ID, _ int) error { return h.Announce(id) })
	if err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	addrs := []string{}
	for _, a := range h.Addrs() {
		addrs = append(addrs, a.String())
	}
	ready(addrs)
	return h.Run(ctx)
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

// answers is the store a liar serves from.
type answers struct {
	store *chunkstore.Store
	how   How
}

var _ exchange.Store = answers{}

// GetPacked does what the liar is there for.
func (a answers) GetPacked(ctx context.Context, id chunk.ID) (chunk.Packed, error) {
	if a.how == Stall {
		<-ctx.Done()
		return chunk.Packed{}, ctx.Err()
	}
	p, err := a.store.GetPacked(ctx, id)
	if err != nil {
		return p, err
	}
	return spoil(p)
}

// spoil returns p with wrong content. Which kind of wrong depends on the ID.
func spoil(p chunk.Packed) (chunk.Packed, error) {
	data, err := p.Open()
	if err != nil {
		return p, err
	}
	if len(data) == 0 {
		data = []byte{0}
	}
	switch p.ID[0] % 4 {
	case 0: // one bit of the content
		data[len(data)/2] ^= 1
		return chunk.Packed{ID: p.ID, Codec: chunk.Plain, Size: len(data), Bytes: data}, nil
	case 1: // well-formed compression of something else
		clear(data)
		return chunk.PackAs(p.ID, data), nil
	case 2: // no compressed frame at all
		return chunk.Packed{ID: p.ID, Codec: chunk.Zstd, Size: len(data), Bytes: data[:len(data)/2]}, nil
	default: // cut short
		data = data[:len(data)-1]
		return chunk.Packed{ID: p.ID, Codec: chunk.Plain, Size: len(data), Bytes: data}, nil
	}
}
