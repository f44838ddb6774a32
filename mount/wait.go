package mount

import (
	"context"
	"sync"
	"time"
)

// reading is the context of one READ. It ends when the reader is interrupted,
// when the time for the read is over, or with the mount. The goroutine that
// watches for that starts when somebody first waits on Done: a chunk that is
// at hand costs neither goroutine nor timer.
type reading struct {
	context.Context // of the mount
	gone            <-chan struct{}
	deadline        time.Time

	mu      sync.Mutex
	watched context.Context // nil until somebody waits
	cancel  context.CancelFunc
}

var _ context.Context = (*reading)(nil)

func newReading(mount context.Context, gone <-chan struct{}, patience time.Duration) *reading {
	return &reading{Context: mount, gone: gone, deadline: time.Now().Add(patience)}
}

// over is what a reading becomes that ends before anybody has waited.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Deadline implements context.Context.
func (r *reading) Deadline() (time.Time, bool) { return r.deadline, true }

// Done implements context.Context.
func (r *reading) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watched == nil {
		ctx, cancel := context.WithDeadline(r.Context, r.deadline)
		r.watched, r.cancel = ctx, cancel
		go func() {
			select {
			case <-r.gone:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return r.watched.Done()
}

// Err implements context.Context.
func (r *reading) Err() error {
	r.mu.Lock()
	watched := r.watched
	r.mu.Unlock()
	switch {
	case watched != nil:
		return watched.Err()
	case r.interrupted():
		return context.Canceled
	case !time.Now().Before(r.deadline):
		return context.DeadlineExceeded
	}
	return r.Context.Err()
}

// interrupted reports whether the reader was interrupted.
func (r *reading) interrupted() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

// end ends all waiting. It must be called when the READ is answered, and may
// be called before, when one part has failed.
func (r *reading) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watched == nil {
		r.watched = over
	} else if r.cancel != nil {
		r.cancel()
	}
}
