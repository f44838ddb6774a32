package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/flistnode/flistnode/p2p"
)

// What is announced, by how many nodes are in the network.
var (
	announceNodes  = []int{3, 30, 300}
	announceChunks = []int{1_000, 10_000, 100_000, 1_000_000}
)

const (
	// pacedChunks takes some seconds at the usual rate, in a network of three.
	pacedChunks = 20_000
	// recordsBudget is the bound of the mode "auto", maxRecords in package node,
	// and recordsAgain what a node that begins stays below, fewRecords there.
	recordsBudget = 2_000_000
	recordsAgain  = recordsBudget * 3 / 4
)

// measurable reports whether a network of nodes is really built and lets its
// first node announce so many chunks.
func measurable(nodes, chunks int, slow bool) bool {
	switch {
	case nodes <= 3:
		return chunks <= 100_000 || slow
	case nodes <= 30:
		return chunks <= 10_000 || slow
	}
	return false
}

// Announce measures what it costs one node to announce its chunks, beside
// announcing only the flists they belong to, in networks of nodes in this
// process; what is too large for that is computed from what was measured. And
// it measures how long it takes to find out who announced a chunk.
func Announce(ctx context.Context, opts Options) (t Table, err error) {
	dir, err := os.MkdirTemp("", "flistnode-bench-")
	if err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t.Title = "announcing everything once, each chunk beside only the flists"
	t.Notes = fmt.Sprintf("CPU is of all nodes together; an flist is taken to have %d chunks; what a row calls simulated "+
		"was not run but computed from the others and from the distances of random keys and nodes", chunksAnFList)
	var each, roots []announcement
	for _, nodes := range announceNodes {
		for _, chunks := range announceChunks {
			byChunks, byRoots, err := announceOne(ctx, opts, dir, nodes, chunks, each, roots)
			if err != nil {
				return t, err
			}
			each, roots = append(each, byChunks), append(roots, byRoots)
			addAnnounce(&t, byChunks, byRoots)
		}
	}
	if err := addPaced(ctx, opts, dir, &t); err != nil {
		return t, err
	}
	if opts.Slow {
		if err := addHeld(ctx, opts, dir, &t); err != nil {
			return t, err
		}
	}
	if err := addLookups(ctx, opts, filepath.Join(dir, "lookup"), &t); err != nil {
		return t, err
	}
	if opts.Plots != "" {
		err = plotAnnounce(filepath.Join(opts.Plots, "announce.svg"), each, roots)
	}
	return t, err
}

// announceOne measures or simulates one point; each and roots are the points
// before it.
func announceOne(ctx context.Context, opts Options, dir string, nodes, chunks int, each, roots []announcement) (byChunks, byRoots announcement, err error) {
	if !measurable(nodes, chunks, opts.Slow) {
		return simulateAnnounce(each, nodes, chunks), simulateRoots(roots, nodes, chunks), nil
	}
	opts.Progress(fmt.Sprintf("%d nodes, %d chunks", nodes, chunks))
	return measureAnnounce(ctx, filepath.Join(dir, fmt.Sprintf("%d-%d", nodes, chunks)), nodes, chunks)
}

func addAnnounce(t *Table, each, roots announcement) {
	how := "simulated"
	if each.measured {
		how = "measured"
	}
	name := func(what string) string {
		return fmt.Sprintf("%d nodes, %d chunks, %s: %s", each.nodes, each.chunks, how, what)
	}
	t.add(name("auto is as "+autoMode(each.nodes, each.chunks)+", records sent"), autoRecords(each, roots), "", "chunks", each.records)
	t.add(name("records sent"), each.records, "", "roots", roots.records)
	t.add(name("other messages"), each.lookups, "", "roots", roots.lookups)
	t.add(name("bytes"), each.bytes/1e6, "MB", "roots", roots.bytes/1e6)
	t.add(name("CPU"), each.cpu, "s", "roots", roots.cpu)
	t.add(name("records a node stores"), each.stored, "", "roots", roots.stored)
	t.add(name("records the fullest stores"), each.most, "", "roots", roots.most)
}

// autoMode is what "auto" does in a node that starts with so many chunks.
func autoMode(nodes, chunks int) string {
	if chunks*min(nodes-1, kept) < recordsAgain {
		return "chunks"
	}
	return "roots"
}

func autoRecords(each, roots announcement) float64 {
	if autoMode(each.nodes, each.chunks) == "chunks" {
		return each.records
	}
	return roots.records
}

// addPaced measures how much of a core announcing takes at the usual rate.
func addPaced(ctx context.Context, opts Options, dir string, t *Table) (err error) {
	opts.Progress(fmt.Sprintf("3 nodes, %d chunks at the usual rate", pacedChunks))
	n, err := newAnnounceNet(ctx, filepath.Join(dir, "paced"), 3, p2p.DefaultAnnounceRate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	began := time.Now()
	a, err := n.announce(ctx, false, numbered(pacedChunks, 3))
	if err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	t.add("records a second at the usual rate", a.records/seconds, "", "the bound", p2p.DefaultAnnounceRate)
	t.add("of a core meanwhile, all 3 nodes", 100*a.cpu/seconds, "%", "", 0)
	return nil
}

// simulateAnnounce computes what it costs to announce each chunk. What one
// record or one other message costs is taken from the measurement most like it.
func simulateAnnounce(measured []announcement, nodes, chunks int) announcement {
	like := mostLike(measured, nodes, chunks)
	a := announcement{nodes: nodes, chunks: chunks}
	a.records = float64(chunks * min(nodes-1, kept))
	// Each batch of keys is preceded by looks around in each region of the key
	// space; there is one for about every 20 nodes.
	regions := func(n int) float64 { return max(1, float64(n)/kept) }
	a.lookups = like.lookups * float64(chunks) / float64(like.chunks) * regions(nodes) / regions(like.nodes)
	scale := (a.records + a.lookups) / (like.records + like.lookups)
	a.bytes, a.cpu = like.bytes*scale, like.cpu*scale
	a.stored = a.records / float64(nodes-1)
	a.most = fullest(nodes, chunks)
	return a
}

// simulateRoots is simulateAnnounce for the roots alone, each of which is
// looked up by itself.
func simulateRoots(measured []announcement, nodes, chunks int) announcement {
	like := mostLike(measured, nodes, chunks)
	n := rootCount(chunks)
	a := announcement{nodes: nodes, chunks: chunks}
	a.records = float64(n * min(nodes-1, kept))
	scale := a.records / like.records
	a.lookups, a.bytes, a.cpu = like.lookups*scale, like.bytes*scale, like.cpu*scale
	a.stored = a.records / float64(nodes-1)
	a.most = fullest(nodes, n)
	return a
}

// mostLike returns the measurement with the most nodes, at most nodes, and of
// these the one with the most chunks, at most chunks if there is such a one.
func mostLike(measured []announcement, nodes, chunks int) (like announcement) {
	for _, m := range measured {
		switch {
		case !m.measured || m.nodes > nodes || m.nodes < like.nodes:
		case m.nodes > like.nodes || m.chunks <= chunks && (m.chunks > like.chunks || like.chunks > chunks):
			like = m
		}
	}
	return like
}

// sampledKeys bounds the keys whose places are really drawn.
const sampledKeys = 20_000

// fullest returns how many records the node stores that stores most, when each
// key goes to the nodes nearest to it by XOR. Keys and nodes are random
// numbers; of many keys a sample is drawn.
func fullest(nodes, chunks int) float64 {
	if nodes-1 <= kept {
		return float64(chunks)
	}
	rnd := rand.New(rand.NewPCG(1, uint64(nodes)))
	ids := make([]uint64, nodes-1)
	for i := range ids {
		ids[i] = rnd.Uint64()
	}
	stored := make([]int, len(ids))
	near := make([]int, len(ids))
	keys := min(chunks, sampledKeys)
	for range keys {
		key := rnd.Uint64()
		for i := range near {
			near[i] = i
		}
		slices.SortFunc(near, func(a, b int) int {
			if ids[a]^key < ids[b]^key {
				return -1
			}
			return 1
		})
		for _, i := range near[:kept] {
			stored[i]++
		}
	}
	return float64(slices.Max(stored)) * float64(chunks) / float64(keys)
}
