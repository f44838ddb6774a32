package testnet

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/flistnode/flistnode/node/api"
)

const (
	retryPause   = time.Second     // before a failed fetch is asked for again
	defaultUntil = 3 * time.Minute // what a step waits for happens within
	pollEvery    = 20 * time.Millisecond
)

// fetching is how far a member's fetch has come. It is guarded by runner.mu.
type fetching struct {
	began   time.Time
	state   api.FetchProgress
	done    bool
	failed  error // the last failure
	again   int   // how often it was asked for again
	seconds float64
	curve   []Point
}

func (f *fetching) percent() float64 {
	switch {
	case f.done:
		return 100
	case f.state.TotalBytes == 0:
		return 0
	}
	return 100 * float64(f.state.Bytes) / float64(f.state.TotalBytes)
}

// shock is a change of the network while fetches run: when each goes on after
// it is measured.
type shock struct {
	what    string
	at      time.Time
	before  map[string]uint64  // bytes each fetch had
	resumed map[string]float64 // seconds until it had more
}

// shock notes how far all fetches under way have come.
func (r *runner) shock(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := shock{what: what, at: time.Now(), before: map[string]uint64{}, resumed: map[string]float64{}}
	for _, m := range r.order {
		if m.fetch != nil && !m.fetch.done && !m.killed && !m.frozen {
			s.before[m.name] = m.fetch.state.Bytes
		}
	}
	r.shocks = append(r.shocks, s)
}

// fetch starts fetches at once and does not wait for them.
func (r *runner) fetch(ctx context.Context, names Names) error {
	r.markFirst()
	err := r.each(names, func(m *member) error {
		if _, err := m.running(); err != nil {
			return err
		}
		f := &fetching{began: time.Now()}
		r.mu.Lock()
		m.fetch = f
		r.mu.Unlock()
		r.fetches.Go(func() { r.keepFetching(ctx, m, f) })
		return nil
	})
	r.tell("%s fetch", strings.Join(names, ", "))
	return err
}

// markFirst notes what the uplinks have carried, and the processor time the
// nodes have used, before the first fetch.
func (r *runner) markFirst() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.first.IsZero() {
		return
	}
	r.first = time.Now()
	for _, m := range r.order {
		if m.node != nil {
			m.idle = m.node.CPU()
		}
	}
	for _, s := range r.sc.Sites {
		if l, err := r.fabric.Link(s.Name); err == nil {
			if c, err := l.Counters(); err == nil {
				r.uplinks[s.Name] = c
			}
		}
	}
}

// keepFetching fetches until it succeeds or, without Retry, has failed once.
func (r *runner) keepFetching(ctx context.Context, m *member, f *fetching) {
	for ctx.Err() == nil {
		err := r.fetchOnce(ctx, m, f)
		r.mu.Lock()
		f.failed = err
		if f.done = err == nil; f.done {
			f.seconds = time.Since(f.began).Seconds()
			f.curve = append(f.curve, Point{time.Since(r.first).Seconds(), 1})
		}
		killed := m.killed
		r.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			r.tell("%s has everything, after %.2f s", m.name, f.seconds)
			return
		case !killed:
			r.tell("%s: %v", m.name, err)
		}
		if !r.sc.Retry || sleep(ctx, retryPause) != nil {
			return
		}
		if !killed { // one that was killed cannot go on unasked
			r.mu.Lock()
			f.again++
			r.mu.Unlock()
		}
	}
}

func (r *runner) fetchOnce(ctx context.Context, m *member, f *fetching) error {
	r.mu.Lock()
	node, cid := m.node, r.packed.CID
	r.mu.Unlock()
	_, err := node.Fetch(ctx, api.FetchRequest{FList: cid}, func(p api.FetchProgress) {
		now := time.Now()
		r.mu.Lock()
		defer r.mu.Unlock()
		f.state = p
		if p.TotalBytes > 0 {
			f.curve = append(f.curve, Point{now.Sub(r.first).Seconds(), float64(p.Bytes) / float64(p.TotalBytes)})
		}
		for i := range r.shocks {
			s := &r.shocks[i]
			if had, ok := s.before[m.name]; ok && p.Bytes > had && s.resumed[m.name] == 0 {
				s.resumed[m.name] = now.Sub(s.at).Seconds()
			}
		}
	})
	return err
}

// until waits until ok holds for all named members' fetches.
func (r *runner) until(ctx context.Context, u Until, what string, ok func(*member) bool) error {
	within := u.Within
	if within == 0 {
		within = defaultUntil
	}
	names := u.Nodes
	if len(names) == 0 {
		names = Names{"others"}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %s", within))
	defer cancel()
	for {
		late := ""
		err := r.each(names, func(m *member) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			switch f := m.fetch; {
			case f == nil:
				return fmt.Errorf("it does not fetch")
			case f.failed != nil && !r.sc.Retry:
				return f.failed
			case !ok(m):
				late += fmt.Sprintf("; %s has %.1f %%", m.name, f.percent())
				if f.failed != nil {
					late += fmt.Sprintf(" (%v)", f.failed)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if late == "" {
			r.tell("%s %s", strings.Join(names, ", "), what)
			return nil
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return fmt.Errorf("%w%s", err, late)
		}
	}
}
