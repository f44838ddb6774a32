package testnet_test

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
)

// lacks returns how many chunks of an flist too few of nodes hold, as their own
// stores say.
func lacks(t *testing.T, cid string, copies int, nodes ...*testnet.Node) int {
	t.Helper()
	missing := map[string]int{}
	for _, n := range nodes {
		v, err := n.Verify(t.Context(), api.VerifyRequest{FList: cid}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range v.MissingChunks {
			missing[c]++
		}
	}
	few := 0
	for _, n := range missing {
		if len(nodes)-n < copies {
			few++
		}
	}
	return few
}

// replicate runs the command on a node and returns its exit code and what it
// printed.
func replicate(t *testing.T, n *testnet.Node, args ...string) (code int, out string) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"--api", n.Socket(), "replicate"}, args...)...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

// waitReplicated waits until a node says of its only wish what ok looks for.
func waitReplicated(t *testing.T, n *testnet.Node, what string, ok func(api.Replication) bool) api.Replication {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		s, err := n.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Replications) == 1 && ok(s.Replications[0]) {
			return s.Replications[0]
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s: %+v", what, s.Replications)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestCopiesComeBackWhenNodesAreKilledAsLongAsTheyCan(t *testing.T) {
	net := network(t, "--replicate-grace", "500ms")
	nodes := line(t, net, 4)
	for _, n := range nodes {
		if err := n.WaitPeers(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
	}
	cid := pack(t, nodes[1], sample(t))
	code, out := replicate(t, nodes[1], cid, "--copies", "2")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	if n := lacks(t, cid, 2, nodes...); n > 0 {
		t.Errorf("%d chunks have fewer than two copies", n)
	}

	// The node that was asked, and had packed it, goes for good.
	nodes[1].Kill()
	left := slices.Delete(slices.Clone(nodes), 1, 2)
	waitReplicated(t, left[0], "two copies among three", func(r api.Replication) bool { return r.OK() && r.Nodes == 3 })
	if n := lacks(t, cid, 2, left...); n > 0 {
		t.Errorf("after a node was killed %d chunks have fewer than two copies", n)
	}
	if code, out = replicate(t, left[0], "--list"); code != 0 || !strings.Contains(out, cid) {
		t.Errorf("list: exit code %d: %s", code, out)
	}

	// One that comes back still knows of it.
	left[2].Kill()
	waitReplicated(t, left[0], "two copies among two", func(r api.Replication) bool { return r.OK() && r.Nodes == 2 })
	again, err := net.Start(t.Context(), left[2].Name, left[0])
	if err != nil {
		t.Fatal(err)
	}
	waitReplicated(t, again, "two copies among three, one of them back", func(r api.Replication) bool { return r.OK() && r.Nodes == 3 })

	again.Kill()
	left[1].Kill()
	r := waitReplicated(t, left[0], "too few nodes", func(r api.Replication) bool { return r.Nodes == 1 })
	if r.OK() || r.Enough != 0 || r.Fewer != r.Chunks || !strings.Contains(r.Problem, "take part: 1") {
		t.Errorf("alone: %+v", r)
	}
	code, out = replicate(t, left[0], cid)
	if code != 6 || !strings.Contains(out, "2 copies need 2 nodes; nodes of the site that take part: 1") {
		t.Errorf("alone: exit code %d: %s", code, out)
	}
	if code, out = replicate(t, left[0], "--stop", cid); code != 0 {
		t.Errorf("stop: exit code %d: %s", code, out)
	}
}
