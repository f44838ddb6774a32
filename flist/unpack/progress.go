package unpack

import (
	"sync"
	"time"
)

// reportProgress calls opts.Progress until the returned function has been
// called, which reports once more.
func (r *run) reportProgress() (stop func()) {
	if r.opts.Progress == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.opts.Progress(r.progress())
			case <-done:
				r.opts.Progress(r.progress())
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// progress is how far the run is by now.
func (r *run) progress() Progress {
	root := r.im.Root()
	return Progress{
		Entries: r.entries.Load(), TotalEntries: int64(root.Counts.Entries) + 1,
		Bytes: r.bytes.Load() + r.holes.Load(), TotalBytes: int64(root.Bytes),
	}
}
