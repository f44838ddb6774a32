package testnet

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// Result is what happened in a scenario. Times are in seconds, sizes in bytes.
type Result struct {
	Scenario    string       `json:"scenario"`
	Title       string       `json:"title"`
	CID         string       `json:"cid"`
	Bytes       uint64       `json:"bytes"`        // of the content
	StoredBytes uint64       `json:"stored_bytes"` // of all chunks, as they travel: one copy
	Chunks      uint64       `json:"chunks"`
	Nodes       []NodeResult `json:"nodes"`
	Figures     []Figure     `json:"figures"`
	Events      []Event      `json:"events"`
	Failed      string       `json:"failed,omitempty"` // what did not happen as it should
}

// NodeResult is what one node did.
type NodeResult struct {
	Name           string            `json:"name"`
	Site           string            `json:"site"`
	Role           string            `json:"role,omitempty"` // if not a plain node: seed, lie, stall, frozen, killed
	Fetched        bool              `json:"fetched"`        // it was asked to fetch and has everything
	Verified       bool              `json:"verified"`
	Seconds        float64           `json:"seconds,omitempty"` // its fetch took
	Floor          float64           `json:"floor,omitempty"`   // seconds one copy takes over its links
	AskedAgain     int               `json:"asked_again"`
	ReceivedBytes  uint64            `json:"received_bytes"` // of chunks
	SentBytes      uint64            `json:"sent_bytes"`
	DuplicateBytes uint64            `json:"duplicate_bytes"` // received and not needed
	From           map[string]uint64 `json:"from"`            // node -> bytes received
	Failures       uint64            `json:"failures"`        // requests to peers that failed
	LinkReceived   uint64            `json:"link_received_bytes"`
	LinkSent       uint64            `json:"link_sent_bytes"`
	CPUSeconds     float64           `json:"cpu_seconds"` // since the first fetch
	Curve          []Point           `json:"curve,omitempty"`
}

// Point is how much of the content a node had at a time since the first fetch.
type Point struct {
	Seconds float64 `json:"seconds"`
	Part    float64 `json:"part"` // 0 to 1
}

// Figure is a number that sums something up. Less is better.
type Figure struct {
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit,omitempty"`
	Goal  *float64 `json:"goal,omitempty"` // the most it should be
	Met   *bool    `json:"met,omitempty"`  // whether it is
}

// The names of the figures.
const (
	figLast       = "last-over-floor" // the slowest fetch over its floor
	figMedian     = "median-over-floor"
	figSeedCopies = "seed-copies"                 // copies of the image the seed sent, by its own count
	figSeedLink   = "seed-copies-on-the-link"     // and by the counter of its link
	figDuplicate  = "duplicate-percent"           // of the chunk bytes received, those not needed
	figLink       = "received-copies-on-the-link" // copies a fetching node's link took in, headers and all, on average
	figAgain      = "asked-again"                 // fetches that had failed
	figFailures   = "failed-requests"             // requests to peers that failed
	figResumed    = "resumed-seconds"             // the longest a fetch stood still after a kill or a heal
	figCPU        = "cpu-seconds"                 // of all nodes
	figUplinkIn   = "uplink-in-"                  // and a site: copies of the image that came in
	figUplinkOut  = "uplink-out-"
	figChunksIn   = "chunks-in-" // and a site: copies of the image its nodes took from nodes of other sites, in chunks
)

var figureNames = []string{figLast, figMedian, figSeedCopies, figSeedLink, figDuplicate, figLink, figAgain, figFailures, figResumed, figCPU}

// Event is something that happened.
type Event struct {
	Seconds float64 `json:"seconds"` // since the network was made
	What    string  `json:"what"`
}

// result sums up what happened.
func (r *runner) result(ctx context.Context, failed error) Result {
	for _, m := range r.order {
		r.sample(ctx, m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	res := Result{Scenario: r.sc.Name, Title: r.sc.Title, CID: r.packed.CID, Bytes: r.packed.Bytes,
		StoredBytes: r.packed.StoredBytes, Chunks: r.packed.Chunks, Events: slices.Clone(r.events)}
	if failed != nil {
		res.Failed = failed.Error()
	}
	for _, m := range r.order {
		res.Nodes = append(res.Nodes, r.nodeResult(m))
	}
	r.figures(&res)
	return res
}

func (r *runner) nodeResult(m *member) NodeResult {
	c := m.past
	c.from = maps.Clone(c.from)
	c.add(m.now)
	n := NodeResult{Name: m.name, Site: m.site, Role: m.role, Verified: m.verified, ReceivedBytes: c.received + c.needless, SentBytes: c.sent,
		Failures: c.failures, CPUSeconds: max(c.cpu-m.idle, 0).Seconds(), From: map[string]uint64{}, Floor: r.floor(m)}
	for id, bytes := range c.from {
		if name, ok := r.names[id]; ok && bytes > 0 {
			n.From[name] += bytes
		}
	}
	if f := m.fetch; f != nil {
		n.Fetched, n.Seconds, n.AskedAgain, n.Curve = f.done, f.seconds, f.again, f.curve
		n.DuplicateBytes = c.needless
		if c.received > c.stored {
			n.DuplicateBytes += c.received - c.stored
		}
	}
	if l, err := r.fabric.Link(m.name); err == nil {
		if lc, err := l.Counters(); err == nil {
			n.LinkReceived, n.LinkSent = lc.ReceivedBytes, lc.SentBytes
		}
	}
	return n
}

// floor returns the seconds one copy of the image takes to a member at the
// rate of its link and, if the seed is elsewhere, of its site's uplink; 0 if
// nothing limits it.
func (r *runner) floor(m *member) float64 {
	rate := Rate(0)
	for _, s := range r.sc.Sites {
		if s.Name != m.site {
			continue
		}
		rate = s.Rate
		if up := s.Uplink.Rate; r.members[r.sc.packer()].site != m.site && up > 0 && (rate == 0 || up < rate) {
			rate = up
		}
	}
	if rate == 0 {
		return 0
	}
	return float64(r.packed.StoredBytes) * 8 / float64(rate)
}

// figures computes the figures and compares them with the scenario's goals.
func (r *runner) figures(res *Result) {
	if res.StoredBytes == 0 {
		return
	}
	add := func(name string, value float64, unit string) {
		f := Figure{Name: name, Value: value, Unit: unit}
		if goal, ok := r.sc.Goals[name]; ok {
			met := value <= goal
			f.Goal, f.Met = &goal, &met
		}
		res.Figures = append(res.Figures, f)
	}
	copies := func(bytes uint64) float64 { return float64(bytes) / float64(res.StoredBytes) }
	var ratios []float64
	var got, needless, linked uint64 // linked: frames, headers, and what others took from it
	fetched := 0
	again, failures, cpu := 0, uint64(0), 0.0
	for _, n := range res.Nodes {
		if n.Fetched && n.Floor > 0 {
			ratios = append(ratios, n.Seconds/n.Floor)
		}
		if n.Fetched {
			fetched, linked = fetched+1, linked+n.LinkReceived
		}
		failures += n.Failures
		got, needless, again, cpu = got+n.ReceivedBytes, needless+n.DuplicateBytes, again+n.AskedAgain, cpu+n.CPUSeconds
	}
	if len(ratios) > 0 {
		slices.Sort(ratios)
		add(figLast, ratios[len(ratios)-1], "")
		add(figMedian, ratios[len(ratios)/2], "")
	}
	for _, n := range res.Nodes {
		if strings.HasPrefix(n.Role, "seed") {
			add(figSeedCopies, copies(n.SentBytes), "")
			add(figSeedLink, copies(n.LinkSent), "")
		}
	}
	if got > 0 {
		add(figDuplicate, 100*float64(needless)/float64(got), "%")
	}
	if fetched > 0 {
		add(figLink, copies(linked)/float64(fetched), "")
	}
	add(figAgain, float64(again), "")
	add(figFailures, float64(failures), "")
	r.shockFigures(add)
	r.uplinkFigures(res, add, copies)
	add(figCPU, cpu, "s")
}

// shockFigures adds how long the slowest fetch stood still after a change.
func (r *runner) shockFigures(add func(string, float64, string)) {
	last, any := 0.0, false
	for _, s := range r.shocks {
		if !strings.HasPrefix(s.what, "healed") && !strings.HasPrefix(s.what, "killed") {
			continue
		}
		for _, seconds := range s.resumed {
			last, any = max(last, seconds), true
		}
	}
	if any {
		add(figResumed, last, "s")
	}
}

// uplinkFigures adds how often the image crossed each uplink that has a shape.
func (r *runner) uplinkFigures(res *Result, add func(string, float64, string), copies func(uint64) float64) {
	for _, s := range r.sc.Sites {
		if s.Uplink == (ScenarioUplink{}) {
			continue
		}
		l, err := r.fabric.Link(s.Name)
		if err != nil {
			continue
		}
		c, err := l.Counters()
		if err != nil {
			continue
		}
		add(figUplinkIn+s.Name, copies(c.ReceivedBytes-r.uplinks[s.Name].ReceivedBytes), "")
		add(figUplinkOut+s.Name, copies(c.SentBytes-r.uplinks[s.Name].SentBytes), "")
		chunks := uint64(0)
		for _, n := range res.Nodes {
			for from, bytes := range n.From {
				if n.Site == s.Name && r.members[from].site != s.Name {
					chunks += bytes
				}
			}
		}
		add(figChunksIn+s.Name, copies(chunks), "")
	}
}
