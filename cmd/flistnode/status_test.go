package main

import (
	"testing"

	"github.com/flistnode/flistnode/node/api"
)

func TestOffencesAreListedByKind(t *testing.T) {
	if got, want := offences(api.Peer{Offences: map[string]uint64{"wants": 1234, "corrupt": 2}}), "corrupt 2, wants 1,234"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := offences(api.Peer{}); got != "-" {
		t.Errorf("got %q for none", got)
	}
}
