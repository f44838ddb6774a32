package node

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p"
)

// Config is everything that can be set about a node. Take DefaultConfig,
// change what should differ, and Check.
type Config struct {
	Data          string        // absolute directory of the store, the identity and the known peers
	API           string        // absolute path of the daemon's control socket
	Listen        []string      // multiaddrs to listen on; port 0 takes a free one
	Peers         []string      // multiaddrs of peers to begin with, ending in /p2p/ID
	SwarmKey      string        // file with the pre-shared key of a private network; "" for none
	Site          string        // name of the site this node is in
	MDNS          bool          // look for peers on the LAN by multicast
	Announce      string        // what is announced: AnnounceAuto, AnnounceChunks or AnnounceRoots
	CacheBytes    int64         // of unpacked chunks kept in memory
	UploadLimit   int64         // bytes per second of chunks sent to peers; 0: none
	DownloadLimit int64         // bytes per second of chunks taken from peers; 0: none
	ReadTimeout   time.Duration // a read of a mounted file waits so long for a chunk
	FetchTimeout  time.Duration // a command waits so long for a chunk
	KeepMounts    bool          // remember mounts and bring them back at the next start
	HoldCommand   []string      // runs hold.Serve, which keeps mounts while no daemon runs; nil for none
	Version       string        // of the program, as status and peers show it

	KeepCopies     bool          // keep copies for the site: this node stays
	ReplicateMax   int64         // bytes kept for wishes of other nodes of the site at most; 0: nothing is
	ReplicateGrace time.Duration // a node of the site that is gone counts as there for so long
}

// Bounds of the settings.
const (
	minCacheBytes = 4 * chunk.MaxSize
	maxSiteBytes  = 64
	// minLimit is the least limit in bytes per second: a chunk takes 16 s, and
	// a peer is given up after 30.
	minLimit = 64 << 10
)

// DefaultConfig returns the settings of a node of this user.
func DefaultConfig() Config {
	cfg := Config{
		Listen:       p2p.DefaultListen(),
		MDNS:         true,
		Announce:     AnnounceAuto,
		CacheBytes:   32 << 20,
		ReadTimeout:  30 * time.Second,
		FetchTimeout: time.Minute,
		Version:      "unknown",

		ReplicateMax:   10 << 30,
		ReplicateGrace: 30 * time.Second,
	}
	if os.Geteuid() == 0 {
		cfg.Data = "/var/lib/flistnode"
		cfg.API = "/run/flistnode/flistnode.sock"
		return cfg
	}
	cfg.Data = filepath.Join(userDir("XDG_DATA_HOME", ".local/share"), "flistnode")
	if run := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) {
		cfg.API = filepath.Join(run, "flistnode", "flistnode.sock")
	} else {
		cfg.API = filepath.Join(cfg.Data, "api.sock")
	}
	return cfg
}

// userDir returns the directory an XDG variable names, or the usual one below
// the home directory.
func userDir(variable, usual string) string {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	return filepath.Join(home, usual)
}

// goodLimit reports whether a rate can be a limit.
func goodLimit(rate int64) bool { return rate == 0 || rate >= minLimit }

// Check says what is wrong with c; the error matches api.ErrInvalid.
func (c Config) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", api.ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case !filepath.IsAbs(c.Data):
		return bad("data directory %q is not an absolute path", c.Data)
	case filepath.Clean(c.Data) == "/":
		return bad("data directory must not be the root of the file system")
	case !filepath.IsAbs(c.API):
		return bad("control socket %q is not an absolute path", c.API)
	case c.SwarmKey != "" && !filepath.IsAbs(c.SwarmKey):
		return bad("swarm key %q is not an absolute path", c.SwarmKey)
	case c.Announce != AnnounceAuto && c.Announce != AnnounceChunks && c.Announce != AnnounceRoots:
		return bad("announce %q: want %s, %s or %s", c.Announce, AnnounceAuto, AnnounceChunks, AnnounceRoots)
	case c.CacheBytes < minCacheBytes:
		return bad("cache of %d bytes is below %d", c.CacheBytes, minCacheBytes)
	case c.ReadTimeout <= 0 || c.FetchTimeout <= 0:
		return bad("read timeout %s and fetch timeout %s must be above zero", c.ReadTimeout, c.FetchTimeout)
	case c.ReplicateMax < 0 || c.ReplicateGrace < 0:
		return bad("%d bytes kept for others and a grace of %s must not be below zero", c.ReplicateMax, c.ReplicateGrace)
	case !goodLimit(c.UploadLimit) || !goodLimit(c.DownloadLimit):
		return bad("limits of %d and %d bytes per second: want 0, for none, or at least %d", c.UploadLimit, c.DownloadLimit, minLimit)
	case len(c.Site) > maxSiteBytes:
		return bad("site name of %d bytes is longer than %d", len(c.Site), maxSiteBytes)
	}
	for _, addr := range c.Listen {
		if _, err := multiaddr.NewMultiaddr(addr); err != nil {
			return bad("listen address %q: %v", addr, err)
		}
	}
	for _, addr := range c.Peers {
		ma, err := multiaddr.NewMultiaddr(addr)
		if err != nil {
			return bad("peer %q: %v", addr, err)
		}
		if _, err := ma.ValueForProtocol(multiaddr.P_P2P); err != nil {
			return bad("peer %q does not end in /p2p/ID", addr)
		}
	}
	return nil
}
