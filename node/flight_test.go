package node

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/flistnode/flistnode/flist/chunk"
)

func TestFlightsShareOneRunOfTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights[string, int]
		var runs atomic.Int32
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				got, err := f.do(t.Context(), "k", func(context.Context) (int, error) {
					runs.Add(1)
					<-release
					return 7, nil
				})
				if got != 7 || err != nil {
					t.Errorf("got %d, %v", got, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if runs.Load() != 1 || len(f.now) != 0 {
			t.Errorf("%d runs, %d flights left", runs.Load(), len(f.now))
		}
	})
}

func TestFlightOutlivesACancelledWaiterAndEndsWithTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights[string, int]
		release := make(chan struct{})
		var ended error
		work := func(ctx context.Context) (int, error) {
			select {
			case <-release:
				return 7, nil
			case <-ctx.Done():
				ended = ctx.Err()
				return 0, ctx.Err()
			}
		}
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := f.do(first, "k", work); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled waiter: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if got, err := f.do(t.Context(), "k", work); got != 7 || err != nil {
				t.Errorf("patient waiter: %d, %v", got, err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()

		release = make(chan struct{})
		alone, cancel := context.WithCancel(t.Context())
		wg.Go(func() { _, _ = f.do(alone, "k", work) })
		synctest.Wait()
		cancel()
		wg.Wait()
		synctest.Wait()
		if !errors.Is(ended, context.Canceled) || len(f.now) != 0 {
			t.Errorf("work nobody waits for ended with %v, %d flights left", ended, len(f.now))
		}
	})
}

func TestWhoLeadsDoesTheWorkHimselfAndTheOthersShareIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights[string, int]
		release := make(chan struct{})
		var runs atomic.Int32
		work := func(ctx context.Context) (int, error) {
			runs.Add(1)
			<-release
			return 7, ctx.Err()
		}
		leader, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if got, err := f.lead(leader, "k", work); got != 7 || err != nil {
				t.Errorf("leader: %d, %v", got, err)
			}
		})
		synctest.Wait()
		hasty, leave := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := f.lead(hasty, "k", work); !errors.Is(err, context.Canceled) {
				t.Errorf("waiter that leaves: %v", err)
			}
		})
		wg.Go(func() {
			if got, err := f.lead(t.Context(), "k", work); got != 7 || err != nil {
				t.Errorf("patient waiter: %d, %v", got, err)
			}
		})
		synctest.Wait()
		leave()
		stop()
		synctest.Wait()
		close(release)
		wg.Wait()
		if runs.Load() != 1 || len(f.now) != 0 {
			t.Errorf("%d runs, %d flights left", runs.Load(), len(f.now))
		}
	})
}

func TestAFaultOfWhoLeadsLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights[string, int]
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			defer func() {
				if recover() == nil {
					t.Error("the fault was hidden")
				}
			}()
			_, _ = f.lead(t.Context(), "k", func(context.Context) (int, error) {
				<-release
				panic("a fault")
			})
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := f.lead(t.Context(), "k", nil); !errors.Is(err, errPanic) {
				t.Errorf("waiter: %v", err)
			}
		})
		synctest.Wait()
		close(release)
		wg.Wait()
		if len(f.now) != 0 {
			t.Errorf("%d flights left", len(f.now))
		}
	})
}

func TestCacheStaysWithinItsBytes(t *testing.T) {
	const size = 100_000
	c, err := newCache(10 * (size + entryBytes))
	must(t, err)
	var ids []chunk.ID
	for i := range 50 {
		data := make([]byte, size)
		data[0] = byte(i)
		id := chunk.Sum(data)
		ids = append(ids, id)
		c.add(id, data)
		c.add(id, data)
		c.get(ids[0]) // used again and again, so it stays
		if s := c.status(); s.Bytes > s.MaxBytes || s.Chunks != min(i+1, 10) {
			t.Fatalf("after %d chunks: %+v", i+1, s)
		}
	}
	for i, id := range ids {
		if _, ok := c.get(id); ok != (i == 0 || i > 40) {
			t.Errorf("chunk %d in the cache: %v", i, ok)
		}
	}
}
