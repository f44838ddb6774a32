package testnet_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

// runScenario runs a scenario with real nodes and fails the test if a step
// did not end as it should.
func runScenario(t *testing.T, sc testnet.Scenario) testnet.Result {
	t.Helper()
	if err := fabric.Available(); err != nil {
		t.Skip("no test network here: ", err)
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	r, err := testnet.RunScenario(t.Context(), sc, testnet.RunOptions{Binary: path, Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed != "" {
		t.Fatal(r.Failed)
	}
	for _, f := range r.Figures {
		t.Logf("%s = %.3g %s", f.Name, f.Value, f.Unit)
	}
	return r
}

func TestScenariosEndWell(t *testing.T) {
	// Who has everything and verified it in the end.
	want := map[string][]string{
		"flash-crowd":           {"a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"},
		"kept-copies":           {"a4"},
		"kill-the-seed-at-half": {"a2", "a3", "a4", "a5"},
		"lying-peer":            {"a3", "a4", "a5"},
		"node-killed":           {"a2", "a3"},
		"partition-and-heal":    {"a2", "b1", "b2", "b3"},
		"stragglers":            {"a2", "a3", "a4", "a5"},
		"stalling-peer":         {"a4", "a5", "a6"},
		"two-sites":             {"b1", "b2", "b3", "b4", "c1", "c2", "c3", "c4"},
		"uplink-cut":            {"b1", "b2", "b3", "b4"},
	}
	for _, name := range testnet.Scenarios() {
		t.Run(name, func(t *testing.T) {
			sc, err := testnet.LoadScenario(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := want[name]; !ok {
				t.Fatal("this test does not know who should have everything in the end")
			}
			sc.Size = min(sc.Size, 8<<20) // facts are asserted here, no figures
			r := runScenario(t, sc)
			var got []string
			for _, n := range r.Nodes {
				if n.Fetched && n.Verified {
					got = append(got, n.Name)
				}
			}
			if diff := cmp.Diff(want[name], got); diff != "" {
				t.Errorf("nodes that have everything (-want +got):\n%s", diff)
			}
			checkResult(t, r)
			if name == "partition-and-heal" {
				checkGoesOn(t, r)
			}
		})
	}
}

// checkGoesOn checks that fetches went on within 10 s after the network healed,
// without being asked for again: by far more than it takes, and what is promised.
func checkGoesOn(t *testing.T, r testnet.Result) {
	t.Helper()
	most := map[string]float64{"resumed-seconds": 10, "asked-again": 0}
	for _, f := range r.Figures {
		if bound, ok := most[f.Name]; ok && f.Value > bound {
			t.Errorf("%s is %.3g", f.Name, f.Value)
		}
		delete(most, f.Name)
	}
	if len(most) > 0 {
		t.Errorf("figures are missing: %v", most)
	}
}

// checkResult checks what holds of any result.
func checkResult(t *testing.T, r testnet.Result) {
	t.Helper()
	if r.StoredBytes < r.Bytes {
		t.Errorf("%d bytes that cannot be compressed take %d", r.Bytes, r.StoredBytes)
	}
	for _, n := range r.Nodes {
		if n.Fetched && n.LinkReceived < r.Bytes {
			t.Errorf("%s has everything, and its link has carried %d of %d bytes", n.Name, n.LinkReceived, r.Bytes)
		}
		from := uint64(0)
		for _, bytes := range n.From {
			from += bytes
		}
		if from > n.ReceivedBytes {
			t.Errorf("%s received %d bytes in all, and %d from others", n.Name, n.ReceivedBytes, from)
		}
		if len(n.Curve) > 0 && !slices.IsSortedFunc(n.Curve, func(a, b testnet.Point) int {
			return int((a.Seconds - b.Seconds) * 1e9)
		}) {
			t.Errorf("curve of %s goes back in time", n.Name)
		}
	}
}

func TestStepThatDoesNotHappenFailsTheScenario(t *testing.T) {
	if err := fabric.Available(); err != nil {
		t.Skip("no test network here: ", err)
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	sc, err := testnet.ParseScenario([]byte(`
size: 1MiB
retry: true
sites: [{name: a, nodes: 2, rate: 50mbit}]
steps:
  - start: all
  - pack: a1
  - cut: a2
  - fetch: a2
  - done: {nodes: a2, within: 2s}
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := testnet.RunScenario(t.Context(), sc, testnet.RunOptions{Binary: path})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.Failed, "step 5 (done)") || !strings.Contains(r.Failed, "a2") {
		t.Errorf("failed: %q, want step 5 and node a2 named", r.Failed)
	}
}

func TestScenarioFileIsChecked(t *testing.T) {
	const head = "size: 1MiB\nsites: [{name: a, nodes: 2}]\nsteps:\n  - pack: a1\n"
	for name, c := range map[string]struct{ text, want string }{
		"good":           {head, ""},
		"unknown key":    {head + "speed: 3\n", "speed"},
		"no size":        {"sites: [{name: a, nodes: 2}]\nsteps: [{pack: a1}]\n", "size"},
		"nothing packed": {"size: 1MiB\nsites: [{name: a, nodes: 2}]\nsteps: [{start: all}]\n", "packs"},
		"two verbs":      {head + "  - {kill: a1, heal: a1}\n", "step 2: want exactly one"},
		"no verb":        {head + "  - {}\n", "step 2: want exactly one"},
		"unknown node":   {head + "  - kill: a9\n", `step 2: kill: no node or site "a9"`},
		"unknown link":   {head + "  - cut: b\n", `step 2: cut: no node or site "b"`},
		"bad rate":       {head + "  - slow: {links: a1, rate: fast}\n", "not a rate"},
		"no copies":      {head + "  - replicate: {node: a1}\n", "replicate: 0 copies"},
		"bad percent":    {head + "  - until: {nodes: a2, percent: 200}\n", "percent"},
		"unknown goal":   {head + "goals: {beauty: 1}\n", "beauty"},
		"goal elsewhere": {head + "goals: {uplink-in-b: 1}\n", "uplink-in-b"},
		"too many nodes": {"size: 1MiB\nsites: [{name: a, nodes: 65}]\nsteps: [{pack: a1}]\n", "65 nodes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := testnet.ParseScenario([]byte(c.text))
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestScenarioIsFoundByNameAndByPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(path, []byte("title: mine\nsize: 1MiB\nsites: [{name: a, nodes: 2, delay: 5ms}]\nsteps: [{pack: a1}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sc, err := testnet.LoadScenario(path)
	if err != nil {
		t.Fatal(err)
	}
	if sc.Name != "mine" || sc.Size != 1<<20 || sc.Sites[0].Delay != 5*time.Millisecond {
		t.Errorf("got %+v", sc)
	}
	if _, err := testnet.LoadScenario("nothing-like-it"); err == nil || !strings.Contains(err.Error(), "flash-crowd") {
		t.Errorf("error %v, want one that lists the scenarios", err)
	}
}

func TestRateIsReadAsTcWritesIt(t *testing.T) {
	for text, want := range map[string]testnet.Rate{"100mbit": 100e6, "512kbit": 512e3, "1gbit": 1e9, "9600bit": 9600, "1.5Mbit": 15e5} {
		if got, err := testnet.ParseRate(text); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "100", "bit", "mbit", "-1mbit", "fast", "10000gbit"} {
		if got, err := testnet.ParseRate(text); err == nil {
			t.Errorf("%q is read as %d", text, got)
		}
	}
}

func TestContentIsTheSameForTheSameSeed(t *testing.T) {
	dir := t.TempDir()
	read := func(name string, seed uint64) []byte {
		path := filepath.Join(dir, name)
		if err := testnet.MakeContent(path, 5<<20, 4<<20, seed); err != nil {
			t.Fatal(err)
		}
		var all []byte
		for _, f := range []string{"file-0000", "file-0001"} {
			b, err := os.ReadFile(filepath.Join(path, f))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		return all
	}
	a, b, c := read("a", 1), read("b", 1), read("c", 2)
	if len(a) != 5<<20 || !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Errorf("%d bytes; same seed equal: %v, other seed equal: %v", len(a), slices.Equal(a, b), slices.Equal(a, c))
	}
}
