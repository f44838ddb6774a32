package testnet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// member is a node of a running scenario, over all its lives. All but node is
// guarded by runner.mu; node is changed by steps only.
type member struct {
	name, site string
	node       *Node // of this life; nil before the first
	liar       *Liar

	role     string // what it became: "seed", "lie", "stall", "frozen", "killed"
	frozen   bool
	killed   bool
	verified bool
	fetch    *fetching
	idle     time.Duration // processor time before the first fetch
	past     counts        // of earlier lives
	now      counts        // of this one
}

// running returns the node if it runs.
func (m *member) running() (*Node, error) {
	if m.node == nil || m.node.Ended() {
		return nil, errors.New("it does not run")
	}
	return m.node, nil
}

const (
	// parallelStarts bounds the nodes that start at the same time.
	parallelStarts = 4
	// settleTime is how long a step that starts nodes waits, at most, until
	// all know each other.
	settleTime = 5 * time.Second
)

// start starts nodes, the first of the scenario before the others, since they
// begin with its address.
func (r *runner) start(ctx context.Context, names Names) error {
	list, err := r.sc.nodes(names)
	if err != nil {
		return err
	}
	if root := r.order[0]; root.node == nil && len(list) > 0 && list[0] == root.name {
		if err := r.startOne(ctx, root); err != nil {
			return err
		}
		list = list[1:]
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelStarts)
	for _, name := range list {
		g.Go(func() error { return r.startOne(gctx, r.members[name]) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.tell("%d nodes run", r.alive())
	for _, m := range r.order {
		if m.node != nil && !m.node.Ended() {
			r.tell("to look into %s: flistnode --api %s status", m.name, m.node.Socket())
		}
	}
	return r.settle(ctx)
}

// startOne starts a node, for the first time or again.
func (r *runner) startOne(ctx context.Context, m *member) error {
	var peers []*Node
	if root := r.order[0]; m != root && root.node != nil {
		peers = append(peers, root.node)
	}
	node, err := r.network.Start(ctx, m.name, peers...)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m.past.add(m.now)
	m.node, m.now, m.killed, m.frozen = node, counts{}, false, false
	r.names[node.PeerID()] = m.name
	return nil
}

// settle waits until every node is connected to another, and a while for all
// to know each other.
func (r *runner) settle(ctx context.Context) error {
	if r.alive() < 2 {
		return nil
	}
	for _, m := range r.order {
		if m.node == nil || m.node.Ended() {
			continue
		}
		if err := m.node.WaitPeers(ctx, 1); err != nil {
			return err
		}
	}
	settled, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for _, m := range r.order {
		if m.node != nil && !m.node.Ended() && m.node.WaitPeers(settled, r.alive()-1) != nil {
			break // also good
		}
	}
	return ctx.Err()
}

func (r *runner) alive() int {
	n := 0
	for _, m := range r.order {
		if m.node != nil && !m.node.Ended() {
			n++
		}
	}
	return n
}

// crashed names a node that ended without being asked to.
func (r *runner) crashed() error {
	for _, m := range r.order {
		if m.node != nil && m.node.Ended() && !m.killed && m.liar == nil {
			return fmt.Errorf("node %s ended by itself: %w\n%s", m.name, m.node.err, m.node.LogTail())
		}
	}
	return nil
}

// fault does the steps that hurt a node.
func (r *runner) fault(ctx context.Context, s Step) error {
	switch {
	case s.Kill != nil:
		return r.each(s.Kill, func(m *member) error { return r.kill(ctx, m) })
	case s.Restart != nil:
		return r.each(s.Restart, func(m *member) error {
			if m.node == nil || !m.node.Ended() || m.liar != nil {
				return errors.New("it was not killed")
			}
			if err := r.startOne(ctx, m); err != nil {
				return err
			}
			r.tell("%s restarted", m.name)
			return nil
		})
	case s.Freeze != nil:
		return r.each(s.Freeze, func(m *member) error { return r.freeze(ctx, m) })
	case s.Thaw != nil:
		return r.each(s.Thaw, func(m *member) error {
			r.mu.Lock()
			m.frozen, m.role = false, ""
			r.mu.Unlock()
			r.tell("%s thawed", m.name)
			return m.node.Thaw()
		})
	case s.Lie != nil:
		return r.each(s.Lie, func(m *member) error { return r.turn(ctx, m, Lie) })
	case s.Stall != nil:
		return r.each(s.Stall, func(m *member) error { return r.turn(ctx, m, Stall) })
	}
	return errors.New("nothing to do")
}

func (r *runner) kill(ctx context.Context, m *member) error {
	node, err := m.running()
	if err != nil {
		return err
	}
	r.sample(ctx, m)
	r.shock("killed " + m.name)
	r.mu.Lock()
	m.killed = true
	if m.role == "" {
		m.role = "killed"
	} else {
		m.role += ", killed"
	}
	r.mu.Unlock()
	node.Kill()
	r.tell("%s killed", m.name)
	return nil
}

func (r *runner) freeze(ctx context.Context, m *member) error {
	node, err := m.running()
	if err != nil {
		return err
	}
	r.sample(ctx, m)
	r.shock("frozen " + m.name)
	r.mu.Lock()
	m.frozen, m.role = true, "frozen"
	r.mu.Unlock()
	r.tell("%s frozen", m.name)
	return node.Freeze()
}

// turn ends a node and puts a liar in its place.
func (r *runner) turn(ctx context.Context, m *member, how Misdeed) error {
	node, err := m.running()
	if err != nil {
		return err
	}
	r.sample(ctx, m)
	if err := node.Stop(ctx); err != nil {
		return err
	}
	var peers []*Node
	if root := r.order[0]; m != root {
		peers = append(peers, root.node)
	}
	l, err := r.network.StartLiar(ctx, m.name, how, peers...)
	if err != nil {
		return err
	}
	r.mu.Lock()
	m.liar, m.role = l, string(how)
	r.mu.Unlock()
	r.tell("%s is now a peer that will %s", m.name, how)
	return nil
}
