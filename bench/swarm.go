package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

// The bounds the project has set itself for a flash crowd.
const (
	swarmCopies     = 1.1 // sent by the seed
	swarmDuplicates = 2.0 // percent
)

// crowd is what one program did: how long each node took, and what the seed
// sent.
type crowd struct {
	name    string
	seconds []float64 // sorted
	linked  uint64    // bytes the seed's link sent, headers and all
	cpu     float64   // seconds of all nodes together
	curves  [][]testnet.Point
}

func (c crowd) last() float64   { return c.seconds[len(c.seconds)-1] }
func (c crowd) median() float64 { return c.seconds[len(c.seconds)/2] }

// Swarm measures many nodes that fetch one image from one seed at once, all
// links of the same rate, beside other programs in the same network.
func Swarm(ctx context.Context, opts Options) (t Table, err error) {
	if err := fabric.Available(); err != nil {
		return t, fmt.Errorf("bench: no test network can be made here: %w", err)
	}
	floor := float64(opts.SwarmBytes) * 8 / float64(opts.Rate)
	t.Title = fmt.Sprintf("%d nodes fetch %d MiB from one seed at once, every link %s both ways", opts.Nodes, opts.SwarmBytes>>20, opts.Rate)
	t.Notes = fmt.Sprintf("the floor is size over rate, %.2f s; frames and headers cost 4.5 %% more; each side after as much memory was written and given back", floor)

	dir, err := os.MkdirTemp("", "flistnode-bench-")
	if err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	opts.Progress(fmt.Sprintf("flistnode, %d nodes", opts.Nodes))
	if err := evenMemory(dir, swarmMemory(opts)); err != nil {
		return t, err
	}
	own, res, err := swarmOwn(ctx, opts)
	if err != nil {
		return t, err
	}
	others, failed, err := swarmOthers(ctx, opts, dir)
	if err != nil {
		return t, err
	}
	for _, f := range failed {
		t.Notes += "; " + f
	}
	t.add("last has everything", own.last(), "s", "the floor", floor)
	t.add("median", own.median(), "s", "the floor", floor)
	copies := func(c crowd) float64 { return float64(c.linked) / float64(opts.SwarmBytes) }
	for _, f := range res.Figures {
		switch f.Name {
		case "seed-copies":
			t.add("copies the seed sent", f.Value, "", "the bound", swarmCopies)
		case "duplicate-percent":
			t.add("received and not needed", f.Value, "%", "the bound", swarmDuplicates)
		}
	}
	for _, o := range others {
		t.add("last has everything", own.last(), "s", o.name, o.last())
		t.add("median", own.median(), "s", o.name, o.median())
		t.add("copies on the seed's link", copies(own), "", o.name, copies(o))
		t.add("CPU, all nodes", own.cpu, "s", o.name, o.cpu)
		t.add("last of "+o.name, o.last(), "s", "the floor", floor)
	}
	if opts.Plots != "" {
		path := filepath.Join(opts.Plots, fmt.Sprintf("swarm-%d.svg", opts.Nodes))
		err = plotCrowds(path, t.Title, floor, append([]crowd{own}, others...))
	}
	return t, err
}

// swarmSite is the network of the benchmark: the seed is s1.
func swarmSite(opts Options) testnet.ScenarioSite {
	return testnet.ScenarioSite{Name: "s", Nodes: opts.Nodes + 1, Rate: opts.Rate}
}

// swarmMemory is about how many bytes all nodes of one side write.
func swarmMemory(opts Options) int64 { return int64(opts.Nodes+1) * opts.SwarmBytes }

// swarmOwn lets real nodes fetch.
func swarmOwn(ctx context.Context, opts Options) (crowd, testnet.Result, error) {
	sc := testnet.Scenario{Name: "swarm", Size: testnet.Size(opts.SwarmBytes), Sites: []testnet.ScenarioSite{swarmSite(opts)},
		Steps: []testnet.Step{
			{Start: testnet.Names{"all"}}, {Pack: "s1"}, {Fetch: testnet.Names{"others"}},
			{Done: &testnet.Until{Nodes: testnet.Names{"others"}, Within: time.Hour}},
		}}
	c := crowd{name: "flistnode"}
	res, err := testnet.RunScenario(ctx, sc, testnet.RunOptions{Binary: opts.Binary})
	if err == nil && res.Failed != "" {
		err = errors.New(res.Failed)
	}
	if err != nil {
		return c, res, fmt.Errorf("bench: %w", err)
	}
	for _, n := range res.Nodes {
		c.cpu += n.CPUSeconds
		if n.Role == "seed" {
			c.linked = n.LinkSent
			continue
		}
		c.seconds = append(c.seconds, n.Seconds)
		c.curves = append(c.curves, n.Curve)
	}
	slices.Sort(c.seconds)
	return c, res, nil
}

// crowdProgram is another program that may bring the content to a crowd.
type crowdProgram struct {
	program, name string // the file, "" if none is needed; as it is shown
	run           func(ctx context.Context, net *fabric.Fabric, opts Options, dir string) (crowd, error)
}

// within runs p, but not for ever.
func (p crowdProgram) within(ctx context.Context, net *fabric.Fabric, opts Options, dir string) (crowd, error) {
	floor := time.Duration(float64(opts.SwarmBytes) * 8 / float64(opts.Rate) * float64(time.Second))
	ctx, cancel := context.WithTimeout(ctx, otherLimit+time.Duration(2*opts.Nodes)*floor)
	defer cancel()
	return p.run(ctx, net, opts, dir)
}

// swarmOthers lets the other programs that are installed do the same in a
// network of the same shape, and says which failed. They work in dir.
func swarmOthers(ctx context.Context, opts Options, dir string) (others []crowd, failed []string, err error) {
	content := filepath.Join(dir, "content")
	if err := testnet.MakeContent(content, opts.SwarmBytes, opts.SwarmBytes, 1); err != nil {
		return nil, nil, err
	}
	progs := []crowdProgram{{"", "HTTP from the seed", crowdHTTP}, {"desync", "desync from the seed", crowdDesync},
		{"aria2c", "aria2c (BitTorrent)", crowdAria}, {"ipfs", "ipfs", crowdKubo}}
	for _, p := range progs {
		if p.program != "" && !installed(p.program) {
			continue
		}
		opts.Progress(fmt.Sprintf("%s, %d nodes", p.name, opts.Nodes))
		if err := evenMemory(dir, swarmMemory(opts)); err != nil {
			return nil, nil, err
		}
		c, err := inFabric(opts, dir, func(net *fabric.Fabric) (crowd, error) { return p.within(ctx, net, opts, dir) })
		if ctx.Err() != nil || err != nil && p.program == "" {
			return nil, nil, fmt.Errorf("bench: %s: %w", p.name, err)
		}
		if err != nil {
			failed = append(failed, p.name+" failed: "+brief(err))
			continue
		}
		c.name = p.name
		slices.Sort(c.seconds)
		others = append(others, c)
	}
	return others, failed, nil
}

// inFabric calls fn with a new network and adds what the seed's link carried.
func inFabric(opts Options, dir string, fn func(*fabric.Fabric) (crowd, error)) (c crowd, err error) {
	site := swarmSite(opts)
	cfg := fabric.Site{Name: site.Name, Link: fabric.Shape{BitsPerSecond: int64(site.Rate)}}
	for i := range site.Nodes {
		cfg.Hosts = append(cfg.Hosts, fmt.Sprintf("%s%d", site.Name, i+1))
	}
	net, err := fabric.New(fabric.Config{Sites: []fabric.Site{cfg}, Dir: dir})
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	if c, err = fn(net); err != nil {
		return c, err
	}
	link, err := net.Link(cfg.Hosts[0])
	if err != nil {
		return c, err
	}
	counters, err := link.Counters()
	c.linked = counters.SentBytes
	return c, err
}
