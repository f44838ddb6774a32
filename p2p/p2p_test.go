package p2p

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// start runs a host on loopback and returns a function that ends it.
func start(t *testing.T, cfg Config) (*Host, func()) {
	t.Helper()
	if cfg.Identity == nil {
		key, err := LoadIdentity(filepath.Join(t.TempDir(), "identity"))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Identity = key
	}
	if cfg.Listen == nil {
		cfg.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	h, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return h, stop
}

func infoOf(h *Host) peer.AddrInfo {
	return peer.AddrInfo{ID: h.ID(), Addrs: h.Libp2p().Addrs()}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func connected(a, b *Host) bool {
	return a.Libp2p().Network().Connectedness(b.ID()) == network.Connected
}

// finds reports whether h finds p as a provider of id in the DHT.
func finds(t *testing.T, h *Host, p peer.ID, id chunk.ID) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	found := false
	for info := range h.FindProviders(ctx, id, 10) {
		found = found || info.ID == p
	}
	return found
}

func TestNodeFindsChunkOfNodeItDoesNotKnow(t *testing.T) {
	id, later := chunk.Sum([]byte("content")), chunk.Sum([]byte("later content"))
	a, _ := start(t, Config{})
	if err := a.Announce(id); err != nil { // before there is any peer
		t.Fatal(err)
	}
	b, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	waitFor(t, "A and B to meet", func() bool { return connected(a, b) })
	c, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(b)}})
	began := time.Now()
	waitFor(t, "C to find A's chunk", func() bool { return finds(t, c, a.ID(), id) })
	t.Logf("found after %s", time.Since(began))
	if err := c.Connect(t.Context(), peer.AddrInfo{ID: a.ID()}); err != nil {
		t.Errorf("connect to the provider found: %v", err)
	}
	if err := a.Announce(later); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	waitFor(t, "C to find a chunk announced later", func() bool { return finds(t, c, a.ID(), later) })
	t.Logf("found after %s", time.Since(began))
	if finds(t, c, a.ID(), chunk.Sum([]byte("never announced"))) {
		t.Error("found what was never announced")
	}
	if rtt, err := c.Ping(t.Context(), b.ID()); err != nil || rtt <= 0 {
		t.Errorf("Ping = %s, %v", rtt, err)
	}
	for _, p := range c.Peers() {
		if p.Transport != "tcp" || p.Direction == "" || p.Since.IsZero() || len(p.Addrs) == 0 {
			t.Errorf("peer info %+v", p)
		}
	}
}

func TestQUICOnlyNodesMeet(t *testing.T) {
	a, _ := start(t, Config{Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	b, _ := start(t, Config{Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, Peers: []peer.AddrInfo{infoOf(a)}})
	waitFor(t, "a connection", func() bool { return connected(b, a) && len(b.Peers()) == 1 })
	if got := b.Peers()[0].Transport; got != "quic-v1" {
		t.Errorf("transport %q", got)
	}
}

func TestAnnouncingGoesOnAndStops(t *testing.T) {
	kept, dropped := chunk.Sum([]byte("kept")), chunk.Sum([]byte("dropped"))
	a, _ := start(t, Config{ReprovideInterval: 500 * time.Millisecond})
	b, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	if err := a.Announce(kept, dropped); err != nil {
		t.Fatal(err)
	}
	told := func(h *Host, id chunk.ID) bool {
		provs, err := h.dht.ProviderStore().GetProviders(t.Context(), id.Multihash())
		return err == nil && len(provs) > 0
	}
	waitFor(t, "both to be announced", func() bool { return told(b, kept) && told(b, dropped) })
	stats := func() AnnounceStats {
		s, err := a.AnnounceStats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := stats(); s.Keys != 2 || !s.Online {
		t.Errorf("stats %+v, want 2 keys", s)
	}
	if err := a.StopAnnouncing(dropped); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the key to be dropped", func() bool { return stats().Keys == 1 })

	// Whoever comes now must be told of the one and never of the other, in the
	// cycles to come.
	c, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	waitFor(t, "the kept key to be announced to C", func() bool { return told(c, kept) })
	if told(c, dropped) {
		t.Error("the dropped key was announced again")
	}
}

func TestAnnouncedAgainAfterTheLastPeerWasGone(t *testing.T) {
	a, _ := start(t, Config{})
	first, stopFirst := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	waitFor(t, "the first peer", func() bool { return connected(a, first) })
	stopFirst()
	id := chunk.Sum([]byte("announced in solitude"))
	if err := a.Announce(id); err != nil {
		t.Fatal(err)
	}
	b, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	waitFor(t, "a record at the new peer", func() bool {
		provs, err := b.dht.ProviderStore().GetProviders(t.Context(), id.Multihash())
		return err == nil && len(provs) > 0
	})
}

func TestManyKeysAreAnnounced(t *testing.T) {
	a, _ := start(t, Config{})
	b, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
	ids := make([]chunk.ID, 5000)
	for i := range ids {
		ids[i] = chunk.Sum([]byte{byte(i), byte(i >> 8), 9})
	}
	if err := a.Announce(ids...); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, id := range []chunk.ID{ids[0], ids[777], ids[4999]} {
		waitFor(t, "every key to be found", func() bool { return finds(t, b, a.ID(), id) })
	}
	t.Logf("after %s", time.Since(began))
}

func TestBacklogIsBounded(t *testing.T) {
	key, err := LoadIdentity(filepath.Join(t.TempDir(), "id"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(t.Context(), Config{Identity: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Announce(make([]chunk.ID, maxBacklog+1)...); !errors.Is(err, ErrBacklog) {
		t.Errorf("Announce = %v, want ErrBacklog", err)
	}
}

func TestFirstAnnouncedIsFirstHandedOn(t *testing.T) {
	a := &announcer{backlog: map[chunk.ID]bool{}, wake: make(chan struct{}, 1), sender: newPacedSender(nil, 0)}
	ids := make([]chunk.ID, announceBatch+1)
	for i := range ids {
		ids[i] = chunk.Sum([]byte{byte(i), byte(i >> 8)})
	}
	if err := errors.Join(a.put(true, ids), a.put(false, ids[:1])); err != nil {
		t.Fatal(err)
	}
	start, stop := a.take()
	if len(start) != announceBatch-1 || !bytes.Equal(start[0], ids[1].Multihash()) || len(stop) != 1 {
		t.Errorf("first batch: %d to announce, %d to stop", len(start), len(stop))
	}
	if start, stop = a.take(); len(start) != 1 || len(stop) != 0 || len(a.order) != 0 {
		t.Errorf("second batch: %d to announce, %d to stop, %d left", len(start), len(stop), len(a.order))
	}
}

func TestRestartWithKnownPeersOnly(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "peers.json")
	key, err := LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	boot, stopBoot := start(t, Config{})
	site, _ := start(t, Config{Peers: []peer.AddrInfo{infoOf(boot)}})
	cfg := Config{Identity: key, Peers: []peer.AddrInfo{infoOf(boot), infoOf(site)}, KnownPeersFile: file}
	_, stopNode := start(t, cfg)
	waitFor(t, "both peers to be written down", func() bool {
		b, _ := os.ReadFile(file)
		return strings.Contains(string(b), site.ID().String()) && strings.Contains(string(b), boot.ID().String())
	})
	stopNode()
	stopBoot()

	cfg.Peers = cfg.Peers[:1] // the dead one
	node, _ := start(t, cfg)
	waitFor(t, "the site to be found again", func() bool { return connected(node, site) })
}

func TestDamagedKnownPeersFileIsNoObstacle(t *testing.T) {
	file := filepath.Join(t.TempDir(), "peers.json")
	for _, content := range []string{"", "{", `{"version":9}`, `{"version":1,"peers":[{"id":"x"}]}`, strings.Repeat("x", maxKnownFileSize+1)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := loadKnownPeers(file, slog.New(slog.DiscardHandler))
		if err != nil || len(k.list()) != 0 {
			t.Errorf("%.20q: %v, %v", content, k.list(), err)
		}
	}
}

func TestPrivateNetwork(t *testing.T) {
	swarmKey := func(b byte) []byte {
		return []byte("/key/swarm/psk/1.0.0/\n/base16/\n" + hex.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "\n")
	}
	var logged bytes.Buffer
	a, _ := start(t, Config{
		SwarmKey: swarmKey(1), Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"},
		Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	for _, addr := range a.Addrs() {
		if strings.Contains(addr.String(), "quic") {
			t.Errorf("private node listens on %s", addr)
		}
	}
	if !strings.Contains(logged.String(), "quic-v1") {
		t.Errorf("nothing was said of QUIC: %q", logged.String())
	}
	b, _ := start(t, Config{SwarmKey: swarmKey(1), Peers: []peer.AddrInfo{infoOf(a)}})
	waitFor(t, "nodes of one key to meet", func() bool { return connected(a, b) })
	for name, key := range map[string][]byte{"wrong key": swarmKey(2), "no key": nil} {
		stranger, _ := start(t, Config{SwarmKey: key})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := stranger.Connect(ctx, infoOf(a)); err == nil {
			t.Errorf("%s: connected", name)
		}
		cancel()
	}
	key, _ := LoadIdentity(filepath.Join(t.TempDir(), "id"))
	if _, err := New(t.Context(), Config{Identity: key, SwarmKey: []byte("no key")}); err == nil {
		t.Error("a damaged swarm key was taken")
	}
	if _, err := New(t.Context(), Config{Identity: key, SwarmKey: swarmKey(1), Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}}); err == nil {
		t.Error("a private network by QUIC alone was taken")
	}
}

func TestLoadIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity")
	first, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadIdentity(path)
	if err != nil || !first.Equals(again) {
		t.Errorf("second load: another key, %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("damaged file: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "damaged" {
		t.Error("a damaged identity was overwritten")
	}
}

func TestRunLeavesNoGoroutines(t *testing.T) {
	cycle := func() {
		a, stopA := start(t, Config{})
		b, stopB := start(t, Config{Peers: []peer.AddrInfo{infoOf(a)}})
		_ = a.Announce(chunk.Sum([]byte("x")))
		waitFor(t, "a connection", func() bool { return connected(a, b) })
		stopA()
		stopB()
	}
	cycle() // what the libraries start once and for all
	before := runtime.NumGoroutine()
	for range 3 {
		cycle()
	}
	end := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > before+2 {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(10 * time.Millisecond)
	}
}
