package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/flistnode/flistnode/node/api"
)

func TestDefaultConfigIsGood(t *testing.T) {
	if err := DefaultConfig().Check(); err != nil {
		t.Error(err)
	}
}

func TestBadConfigSaysWhatIsWrong(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		says   string
	}{
		{"relative data directory", func(c *Config) { c.Data = "data" }, "data directory"},
		{"root as data directory", func(c *Config) { c.Data = "//" }, "root of the file system"},
		{"relative socket", func(c *Config) { c.API = "api.sock" }, "control socket"},
		{"relative swarm key", func(c *Config) { c.SwarmKey = "key" }, "swarm key"},
		{"tiny cache", func(c *Config) { c.CacheBytes = 1000 }, "cache"},
		{"no patience", func(c *Config) { c.ReadTimeout = 0 }, "timeout"},
		{"listen on nonsense", func(c *Config) { c.Listen = []string{"0.0.0.0:4001"} }, "listen address"},
		{"peer without ID", func(c *Config) { c.Peers = []string{"/ip4/192.0.2.1/tcp/4001"} }, "/p2p/ID"},
		{"announce nonsense", func(c *Config) { c.Announce = "all" }, "auto, chunks or roots"},
		{"long site", func(c *Config) { c.Site = strings.Repeat("x", 65) }, "site"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := DefaultConfig()
			tc.change(&c)
			err := c.Check()
			if !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one about %q", err, tc.says)
			}
		})
	}
}
