package testnet_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestImportsPointDownwards keeps the layers of the house apart. Packages are
// named without the module path.
func TestImportsPointDownwards(t *testing.T) {
	forbidden := []struct{ from, to, why string }{
		{"flist/...", "node/...", "the format knows nobody above it"},
		{"flist/...", "p2p/...", "the format reads from a chunk.Source and knows no network"},
		{"flist/...", "chunkstore/...", "the format reads from a chunk.Source and knows no store"},
		{"flist/...", "mount/...", "the format is below the file system"},
		{"flist/chunk", "flist", "the vocabulary knows nobody"},
		{"flist", "flist/pack", "packing uses the format, not the other way round"},
		{"flist", "flist/unpack", "unpacking uses the format, not the other way round"},
		{"flist/pack", "flist/unpack", "the two directions are independent"},
		{"flist/unpack", "flist/pack", "the two directions are independent"},
		{"p2p/...", "chunkstore/...", "only node wires: the network serves from an interface"},
		{"p2p/...", "mount/...", "only node wires"},
		{"p2p/...", "node/...", "the network is below the node"},
		{"p2p/exchange", "p2p/swarm", "the wire does not decide whom to ask"},
		{"chunkstore/...", "p2p/...", "only node wires: store events are callbacks"},
		{"chunkstore/...", "mount/...", "only node wires"},
		{"chunkstore/...", "node/...", "the store is below the node"},
		{"mount/...", "p2p/...", "only node wires: the file system reads from a chunk.Source"},
		{"mount/...", "chunkstore/...", "only node wires"},
		{"mount/...", "node/...", "the file system is below the node"},
		{"node/api", "node", "the API names what it needs of a node in an interface"},
		{"...", "cmd/...", "nobody imports the command line"},
		{"node/...", "testnet/...", "production code knows no test network"},
		// testnet/liar is a peer, not a part of the network that runs it.
		{"testnet", "p2p/...", "a test network is made of processes, known by their control API"},
		{"testnet", "chunkstore/...", "a test network is made of processes, known by their control API"},
		{"testnet/fabric", "p2p/...", "namespaces do not know what runs in them"},
		{"testnet/fabric", "node/...", "namespaces do not know what runs in them"},
		{"testnet/fabric", "testnet", "namespaces do not know what runs in them"},
		{"...", "testing", "production code knows no tests"},
	}
	used := map[string]bool{}
	for from, imports := range imports(t) {
		for _, to := range imports {
			for _, f := range forbidden {
				if matches(from, f.from) && matches(to, f.to) {
					t.Errorf("%s imports %s: %s", from, to, f.why)
				}
			}
		}
		used[strings.Split(from, "/")[0]] = true
	}
	for _, dir := range []string{"cmd", "node", "p2p", "chunkstore", "mount", "flist", "bench", "testnet"} {
		if !used[dir] {
			t.Errorf("no package below %s was looked at", dir)
		}
	}
}

// matches reports whether package p is the one pattern names or, where pattern
// ends in "/...", below it.
func matches(p, pattern string) bool {
	layer, below := strings.CutSuffix(pattern, "/...")
	return pattern == "..." || p == layer || below && strings.HasPrefix(p, layer+"/")
}

const module = "github.com/flistnode/flistnode"

// imports lists what each package of the module imports.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	graph := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(strings.ReplaceAll(line, module+"/", ""))
		graph[words[0]] = slices.Clone(words[1:])
	}
	return graph
}
