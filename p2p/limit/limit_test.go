package limit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// move spends n pieces of size bytes and returns how long that took.
func move(t *testing.T, l *Limit, n, size int, urgent bool) time.Duration {
	t.Helper()
	began := time.Now()
	for range n {
		if err := l.Wait(t.Context(), urgent); err != nil {
			t.Fatal(err)
		}
		l.Spend(size, urgent)
	}
	return time.Since(began)
}

func between(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s took %s of virtual time, want %s to %s", what, got, low, high)
	}
}

func TestTheRateHolds(t *testing.T) {
	for _, urgent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := New(4 << 20)
			between(t, "40 MiB at 4 MiB/s", move(t, l, 640, 64<<10, urgent), 9500*time.Millisecond, 10*time.Second)
		})
	}
}

func TestNoLimitIsNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, l := range []*Limit{nil, New(0)} {
			between(t, "moving without a limit", move(t, l, 1000, 1<<20, false), 0, 0)
			if l.Rate() != 0 || !l.Room(time.Now(), 1<<40, false) {
				t.Error("there is a limit")
			}
		}
	})
}

func TestWhatSomebodyWaitsForIsNotBehindBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(1 << 20)
		for range 20 {
			l.Spend(1<<20, false) // bulk that came late
		}
		if l.Room(time.Now(), 0, false) {
			t.Error("bulk goes on although its bytes are spent")
		}
		between(t, "a waiting read", move(t, l, 1, 64<<10, true), 0, 0)
		between(t, "bulk after it", move(t, l, 1, 64<<10, false), 19*time.Second, 20*time.Second)
	})
}

func TestAChangedRateIsSeenByThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(64 << 10)
		for range 100 {
			l.Spend(1<<20, false)
		}
		go func() {
			time.Sleep(time.Second)
			l.Set(0)
		}()
		between(t, "waiting", move(t, l, 1, 1, false), time.Second, 2*time.Second)
		l.Set(1 << 30)
		if l.Rate() != 1<<30 {
			t.Errorf("rate %d", l.Rate())
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(64 << 10)
		l.Spend(1<<20, false)
		l.Spend(1<<20, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Wait(ctx, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := l.Wait(ctx, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with room, but after the end of its context: %v", err)
		}
	})
}
