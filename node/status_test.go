package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

func TestPeerThatCannotBeReachedIsNamed(t *testing.T) {
	const away = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
	n := startNode(t, "n", func(c *Config) {
		c.Peers = []string{"/ip4/127.0.0.1/tcp/1/p2p/" + away}
		c.ReadTimeout, c.FetchTimeout = time.Second, time.Second
	})
	var status api.Status
	waitFor(t, "the peer to be found unreachable", func() bool {
		var err error
		status, err = n.Status(t.Context())
		must(t, err)
		return len(status.Unreached) > 0
	})
	if p := status.Unreached[0]; p.ID != away || !strings.Contains(p.Error, "refused") || strings.Contains(p.Error, "\n") {
		t.Errorf("unreached: %+v", p)
	}
	_, err := n.swarm.Get(t.Context(), chunk.Sum([]byte("nobody has it")))
	if !errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), away) {
		t.Errorf("not found: %v", err)
	}
}
