package bench

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRepositoryOfIPFSIsIsolated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	before := `{"Identity":{"PeerID":"x"},"Bootstrap":[],"Addresses":{"API":"a","Swarm":["/ip4/127.0.0.1/tcp/0"]},"Routing":{"Type":"auto"}}`
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := isolate(path, "/ip4/10.77.1.11/tcp/4001"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"Identity":  map[string]any{"PeerID": "x"},
		"Bootstrap": []any{},
		"Addresses": map[string]any{"API": "a", "Swarm": []any{"/ip4/10.77.1.11/tcp/4001"}},
		"Routing":   map[string]any{"Type": "none"},
		"Swarm":     map[string]any{"EnableHolePunching": false, "RelayClient": map[string]any{"Enabled": false}},
		"AutoNAT":   map[string]any{"ServiceMode": "disabled"},
		"Version":   map[string]any{"SwarmCheckEnabled": false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAProgramThatFailsIsLeftOutAndNamed(t *testing.T) {
	runs := 0
	o := otherTransfer{name: "slowpoke", run: func(context.Context) (float64, error) {
		if runs++; runs > 2 {
			return 0, errors.New("it\n  stalled")
		}
		return 1, nil
	}}
	for i := range 5 {
		if err := o.turn(t.Context(), i > 0); err != nil {
			t.Fatal(err)
		}
	}
	if runs != 3 || len(o.seconds) != 0 || o.failed != "slowpoke failed: it stalled" {
		t.Errorf("%d runs, %v, %q", runs, o.seconds, o.failed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o = otherTransfer{run: func(ctx context.Context) (float64, error) { return 0, ctx.Err() }}
	if err := o.turn(ctx, true); !errors.Is(err, context.Canceled) {
		t.Errorf("when the benchmark is cancelled: %v", err)
	}
}

func TestErrorsAreToldInOneLine(t *testing.T) {
	long := brief(errors.New(strings.Repeat("x\n", 1000) + "the end"))
	if strings.Contains(long, "\n") || len(long) > 210 || !strings.HasSuffix(long, "the end") {
		t.Errorf("%q", long)
	}
}

func TestTicksAreRoundAndFew(t *testing.T) {
	for _, tt := range []struct{ longest, want float64 }{{92, 20}, {12, 2}, {8, 1}, {1.5, 0.2}, {700, 100}} {
		if got := tickStep(tt.longest); got < tt.want*0.999 || got > tt.want*1.001 {
			t.Errorf("up to %g: %g, want %g", tt.longest, got, tt.want)
		}
	}
}
