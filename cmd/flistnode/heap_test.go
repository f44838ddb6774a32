package main

import "testing"

func TestASmallHeapMayGrowMore(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		live, beside uint64
		want         int
	}{
		{0, 0, mostGCPercent},
		{4 * mib, mib, mostGCPercent},
		{20 * mib, 0, 180},
		{20 * mib, 4 * mib, 150},
		{40 * mib, 0, 40},
		{50 * mib, 0, leastGCPercent},
		{500 * mib, 10 * mib, leastGCPercent},
	} {
		if got := gcPercent(c.live, c.live+c.beside); got != c.want {
			t.Errorf("%d MiB live and %d beside: GOGC %d, want %d", c.live/mib, c.beside/mib, got, c.want)
		}
	}
}
