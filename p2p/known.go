package p2p

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	maxKnownPeers    = 256
	maxKnownAddrs    = 16 // per peer
	maxKnownFileSize = 1 << 20
	knownVersion     = 1
	// knownInterval is how often connected peers are looked at; the file is
	// written when they or their addresses changed, or their times are old.
	knownInterval = 2 * time.Second
	knownRefresh  = 10 * time.Minute
)

// knownPeers remembers peers this node was connected to, newest first, so that
// it finds its site again without any bootstrap peer.
type knownPeers struct {
	path string // "" when only in memory
	log  *slog.Logger

	mu    sync.Mutex
	peers map[peer.ID]knownPeer
	dirty bool
}

type knownPeer struct {
	addrs []ma.Multiaddr
	seen  time.Time // when it was last connected
}

// The file: {"version":1,"peers":[{"id":"12D3...","addrs":["/ip4/..."],"seen":"2026-11-01T12:00:00Z"}]}
type knownFile struct {
	Version int           `json:"version"`
	Peers   []knownRecord `json:"peers"`
}

type knownRecord struct {
	ID    peer.ID   `json:"id"`
	Addrs []string  `json:"addrs"`
	Seen  time.Time `json:"seen"`
}

// loadKnownPeers reads the file if there is one. A damaged one is only worth a
// warning: the node can find its peers otherwise, and writes a new one.
func loadKnownPeers(path string, log *slog.Logger) (*knownPeers, error) {
	k := &knownPeers{path: path, log: log, peers: map[peer.ID]knownPeer{}}
	if path == "" {
		return k, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("known peers: %w", err)
	}
	if info.Size() > maxKnownFileSize {
		log.Warn("known peers not read: file too large", "file", path, "bytes", info.Size())
		return k, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("known peers: %w", err)
	}
	var f knownFile
	if err := json.Unmarshal(b, &f); err != nil || f.Version != knownVersion {
		log.Warn("known peers not read: file is damaged or of another version", "file", path, "version", f.Version, "err", err)
		return k, nil
	}
	for _, r := range f.Peers[:min(len(f.Peers), maxKnownPeers)] {
		var addrs []ma.Multiaddr
		for _, s := range r.Addrs[:min(len(r.Addrs), maxKnownAddrs)] {
			if a, err := ma.NewMultiaddr(s); err == nil {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) > 0 {
			k.peers[r.ID] = knownPeer{addrs, r.Seen}
		}
	}
	return k, nil
}

// list returns all known peers, the one seen last first.
func (k *knownPeers) list() []peer.AddrInfo {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []peer.AddrInfo
	for _, id := range k.newestFirst() {
		out = append(out, peer.AddrInfo{ID: id, Addrs: k.peers[id].addrs})
	}
	return out
}

func (k *knownPeers) newestFirst() []peer.ID {
	ids := make([]peer.ID, 0, len(k.peers))
	for id := range k.peers {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b peer.ID) int { return k.peers[b].seen.Compare(k.peers[a].seen) })
	return ids
}

// run keeps the list up to date, and the file with it, until ctx ends.
func (k *knownPeers) run(ctx context.Context, h host.Host) {
	tick := time.NewTicker(knownInterval)
	defer tick.Stop()
	for {
		k.look(h)
		if err := k.save(); err != nil {
			k.log.Error("known peers are not kept", "file", k.path, "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look notes the connected peers that speak our DHT protocol.
func (k *knownPeers) look(h host.Host) {
	now := time.Now()
	for _, id := range h.Network().Peers() {
		if h.Network().Connectedness(id) != network.Connected {
			continue
		}
		ours, err := h.Peerstore().SupportsProtocols(id, DHTPrefix+"/kad/1.0.0")
		addrs := h.Peerstore().Addrs(id)
		if err != nil || len(ours) == 0 || len(addrs) == 0 {
			continue
		}
		k.note(id, addrs[:min(len(addrs), maxKnownAddrs)], now)
	}
}

func (k *knownPeers) note(id peer.ID, addrs []ma.Multiaddr, now time.Time) {
	slices.SortFunc(addrs, func(a, b ma.Multiaddr) int { return a.Compare(b) })
	k.mu.Lock()
	defer k.mu.Unlock()
	old, ok := k.peers[id]
	same := ok && slices.EqualFunc(old.addrs, addrs, func(a, b ma.Multiaddr) bool { return a.Equal(b) })
	if same && now.Sub(old.seen) < knownRefresh {
		return
	}
	k.peers[id] = knownPeer{addrs, now}
	k.dirty = true
	for len(k.peers) > maxKnownPeers {
		ids := k.newestFirst()
		delete(k.peers, ids[len(ids)-1])
	}
}

// save writes the file if something changed.
func (k *knownPeers) save() error {
	k.mu.Lock()
	if !k.dirty || k.path == "" {
		k.mu.Unlock()
		return nil
	}
	k.dirty = false
	f := knownFile{Version: knownVersion}
	for _, id := range k.newestFirst() {
		r := knownRecord{ID: id, Seen: k.peers[id].seen.UTC().Truncate(time.Second)}
		for _, a := range k.peers[id].addrs {
			r.Addrs = append(r.Addrs, a.String())
		}
		f.Peers = append(f.Peers, r)
	}
	k.mu.Unlock()
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(k.path, append(b, '\n'))
}
