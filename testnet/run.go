package testnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet/fabric"
)

// RunOptions says how a scenario is run.
type RunOptions struct {
	Binary string       // the flistnode executable
	Args   []string     // further arguments of every daemon
	Log    *slog.Logger // discards when nil

	// Progress, if not nil, is told what happens, a line at a time.
	Progress func(what string)
	// Settled, if not nil, is called once all steps are done or one has
	// failed; the network goes on until it returns.
	Settled func(Result)
}

// runner runs one scenario.
type runner struct {
	sc      Scenario
	opts    RunOptions
	dir     string
	fabric  *fabric.Fabric
	network *Network
	began   time.Time
	fetches sync.WaitGroup

	mu      sync.Mutex // guards what is below and what members say is guarded
	members map[string]*member
	order   []*member
	names   map[string]string // peer ID -> node
	events  []Event
	packed  api.PackResult
	first   time.Time // when the first fetch began
	shocks  []shock
	uplinks map[string]fabric.Counters // at the first fetch
}

// RunScenario runs a scenario in a network of its own and takes everything
// down again, also when ctx ends. What did not come out as the steps demand is
// in Result.Failed and no error; an error says that it could not be run.
func RunScenario(ctx context.Context, sc Scenario, opts RunOptions) (res Result, err error) {
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	dir, err := os.MkdirTemp("", "flistnode-testnet-")
	if err != nil {
		return res, fmt.Errorf("testnet: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg := sc.fabric()
	cfg.Log, cfg.Dir = opts.Log, dir
	fab, err := fabric.New(cfg)
	if err != nil {
		return res, fmt.Errorf("testnet: %w", err)
	}
	r := newRunner(sc, opts, dir, fab)
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		r.killBusy()
		cancel()
		stopCtx, stop := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer stop()
		serr := r.network.Stop(stopCtx)
		r.fetches.Wait()
		err = errors.Join(err, serr, fab.Close())
	}()
	r.fetches.Go(func() { r.sampleUntil(ctx) })
	failed := r.steps(ctx)
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	res = r.result(ctx, failed)
	if opts.Settled != nil {
		opts.Settled(res)
	}
	return res, nil
}

func newRunner(sc Scenario, opts RunOptions, dir string, fab *fabric.Fabric) *runner {
	r := &runner{sc: sc, opts: opts, dir: dir, fabric: fab, began: time.Now(),
		network: New(Config{Binary: opts.Binary, Dir: dir, Args: slices.Concat(sc.Args, opts.Args), Log: opts.Log, Fabric: fab}),
		members: map[string]*member{}, names: map[string]string{}, uplinks: map[string]fabric.Counters{}}
	for _, h := range fab.Hosts() {
		m := &member{name: h.Name(), site: h.Site()}
		r.members[m.name], r.order = m, append(r.order, m)
	}
	return r
}

// killBusy kills the nodes that are frozen or in the middle of a fetch: they
// could take long to end in order, and their data are not needed.
func (r *runner) killBusy() {
	for _, m := range r.order {
		r.mu.Lock()
		node, busy := m.node, m.frozen || m.fetch != nil && !m.fetch.done
		m.killed = m.killed || busy
		r.mu.Unlock()
		if node != nil && busy {
			node.Kill()
		}
	}
}

// steps does one step after another and returns what the first one that failed
// says.
func (r *runner) steps(ctx context.Context) error {
	for i, step := range r.sc.Steps {
		if err := r.do(ctx, step); err != nil {
			r.tell("step %d (%s) failed: %v", i+1, step.verb(), err)
			return fmt.Errorf("step %d (%s): %w", i+1, step.verb(), err)
		}
	}
	return r.crashed()
}

// do does one step.
func (r *runner) do(ctx context.Context, s Step) error {
	switch {
	case s.Start != nil:
		return r.start(ctx, s.Start)
	case s.Pack != "":
		return r.pack(ctx, s.Pack)
	case s.Fetch != nil:
		return r.fetch(ctx, s.Fetch)
	case s.Until != nil:
		return r.until(ctx, *s.Until, "have come to "+fmt.Sprint(s.Until.Percent)+" %", func(m *member) bool {
			return m.fetch.percent() >= s.Until.Percent
		})
	case s.Done != nil:
		return r.until(ctx, *s.Done, "have everything", func(m *member) bool { return m.fetch.done })
	case s.Verify != nil:
		return r.each(s.Verify, func(m *member) error { return r.verify(ctx, m) })
	case s.Replicate != nil:
		return r.replicate(ctx, *s.Replicate)
	case s.Cut != nil:
		return r.links(s.Cut, "cut", (*fabric.Link).Cut)
	case s.Heal != nil:
		return r.links(s.Heal, "healed", (*fabric.Link).Heal)
	case s.Slow != nil:
		return r.links(s.Slow.Links, "slowed to "+s.Slow.Rate.String(), func(l *fabric.Link) error { return l.SetRate(int64(s.Slow.Rate)) })
	case s.Pause > 0:
		r.tell("pause of %s", s.Pause)
		return sleep(ctx, s.Pause)
	}
	return r.fault(ctx, s)
}

// tell notes what happened.
func (r *runner) tell(format string, args ...any) {
	e := Event{Seconds: time.Since(r.began).Seconds(), What: fmt.Sprintf(format, args...)}
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	r.opts.Progress(fmt.Sprintf("%6.2f s  %s", e.Seconds, e.What))
}

// each calls fn for the members that names stand for, one after the other.
func (r *runner) each(names Names, fn func(m *member) error) error {
	list, err := r.sc.nodes(names)
	if err != nil {
		return err
	}
	for _, name := range list {
		if err := fn(r.members[name]); err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
	}
	return nil
}

func (r *runner) links(names Names, what string, fn func(*fabric.Link) error) error {
	for _, name := range names {
		l, err := r.fabric.Link(name)
		if err != nil {
			return err
		}
		r.shock(what + " " + name)
		if err := fn(l); err != nil {
			return err
		}
		r.tell("link of %s %s", name, what)
	}
	return nil
}

// contentFile is how large the files of a scenario's content are, in bytes.
const contentFile = 4 << 20

// pack makes the content and packs it.
func (r *runner) pack(ctx context.Context, name string) error {
	dir := filepath.Join(r.dir, "content")
	if err := MakeContent(dir, int64(r.sc.Size), contentFile, 1); err != nil {
		return err
	}
	m := r.members[name]
	node, err := m.running()
	if err != nil {
		return err
	}
	res, err := node.Pack(ctx, api.PackRequest{Dir: dir, Reproducible: true}, nil)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.packed, m.role = res, "seed"
	r.mu.Unlock()
	r.tell("%s has packed %d bytes in %d chunks: %s", name, res.Bytes, res.Chunks, res.CID)
	return os.RemoveAll(dir)
}

func (r *runner) verify(ctx context.Context, m *member) error {
	node, err := m.running()
	if err != nil {
		return err
	}
	res, err := node.Verify(ctx, api.VerifyRequest{FList: r.packed.CID, Digests: true}, nil)
	if err != nil {
		return err
	}
	if !res.OK() {
		return fmt.Errorf("%d chunks missing, %d corrupt, %d files wrong", res.Missing, res.Corrupt, res.WrongFiles)
	}
	r.mu.Lock()
	m.verified = true
	r.mu.Unlock()
	return nil
}

// sleep waits, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
