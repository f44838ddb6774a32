package testnet

import (
	"context"
	"fmt"

	"github.com/flistnode/flistnode/node/api"
)

// replicate asks a node for copies and waits until it says that they are there,
// on nodes that run: one that was killed counts for a while.
func (r *runner) replicate(ctx context.Context, step Replicate) error {
	m := r.members[step.Node]
	if m == nil {
		return fmt.Errorf("%q is a site: name a node", step.Node)
	}
	node, err := m.running()
	if err != nil {
		return fmt.Errorf("node %s: %w", m.name, err)
	}
	within := step.Within
	if within == 0 {
		within = defaultUntil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %s", within))
	defer cancel()
	for {
		res, err := node.Replicate(ctx, api.ReplicateRequest{FList: r.packed.CID, Copies: step.Copies}, nil)
		if err != nil {
			return fmt.Errorf("node %s: %w", m.name, err)
		}
		if res.OK() && res.Nodes <= r.aliveAt(m.site) {
			r.tell("%s says that its site has %d copies, on %d nodes", m.name, step.Copies, res.Nodes)
			return nil
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return fmt.Errorf("node %s: %w: %d of %d chunks have the copies, on %d nodes: %s", m.name, err, res.Enough, res.Chunks, res.Nodes, res.Problem)
		}
	}
}

// aliveAt returns how many nodes of a site run.
func (r *runner) aliveAt(site string) (n int) {
	for _, m := range r.order {
		if m.site == site && m.node != nil && !m.node.Ended() {
			n++
		}
	}
	return n
}
