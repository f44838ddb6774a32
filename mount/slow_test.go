package mount

import (
	"testing"
	"time"
)

func TestSlowestReadsAreKept(t *testing.T) {
	var s slowReads
	for i := range 100 {
		s.note(slowRead{off: uint64(i), took: time.Duration((i * 37) % 100)})
	}
	if len(s.list) != maxSlow {
		t.Fatalf("%d are kept, want %d", len(s.list), maxSlow)
	}
	for i, r := range s.list {
		if want := time.Duration(99 - i); r.took != want {
			t.Errorf("number %d took %d, want %d", i, r.took, want)
		}
	}
}
