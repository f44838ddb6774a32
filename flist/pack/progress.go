package pack

import (
	"sync"
	"sync/atomic"
	"time"
)

// counters are what Progress and Result are made of.
type counters struct {
	entries, files, bytes, stored, chunks atomic.Int64
}

func (c *counters) snapshot() Progress {
	return Progress{
		Entries:     c.entries.Load(),
		Files:       c.files.Load(),
		Bytes:       c.bytes.Load(),
		StoredBytes: c.stored.Load(),
		Chunks:      c.chunks.Load(),
	}
}

// report calls f ten times a second until the returned function is called,
// which calls it once more.
func (c *counters) report(f func(Progress)) (stop func()) {
	if f == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f(c.snapshot())
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		f(c.snapshot())
	}
}
