package node

import (
	"context"
	"sync"
)

// flights lets callers that want the same thing at the same time share the
// work of one. The work goes on as long as somebody waits for it: a waiter
// whose context ends leaves alone, the last one cancels the work.
//
// (singleflight of golang.org/x/sync ties the work to its first caller's
// context, or to none.)
type flights[K comparable, V any] struct {
	mu  sync.Mutex
	now map[K]*flight[V]
}

type flight[V any] struct {
	waiters int // guarded by flights.mu
	cancel  context.CancelFunc
	done    chan struct{} // closed when value and err are set
	value   V
	err     error
}

// do returns what work returns, for this caller or for another with the same
// key that came earlier. work's context has the values of its first caller's.
func (f *flights[K, V]) do(ctx context.Context, key K, work func(context.Context) (V, error)) (V, error) {
	fl := f.join(ctx, key, work)
	select {
	case <-fl.done:
		f.leave(key, fl)
		return fl.value, fl.err
	case <-ctx.Done():
		f.leave(key, fl)
		var none V
		return none, context.Cause(ctx)
	}
}

func (f *flights[K, V]) join(ctx context.Context, key K, work func(context.Context) (V, error)) *flight[V] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.now[key]; ok {
		fl.waiters++
		return fl
	}
	shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fl := &flight[V]{waiters: 1, cancel: cancel, done: make(chan struct{})}
	if f.now == nil {
		f.now = make(map[K]*flight[V])
	}
	f.now[key] = fl
	go func() { // ends soon after its last waiter has left
		fl.value, fl.err = work(shared)
		f.land(key, fl)
		close(fl.done)
	}()
	return fl
}

// land makes the next caller start anew.
func (f *flights[K, V]) land(key K, fl *flight[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now[key] == fl {
		delete(f.now, key)
	}
}

func (f *flights[K, V]) leave(key K, fl *flight[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiters--; fl.waiters > 0 {
		return
	}
	fl.cancel()
	if f.now[key] == fl {
		delete(f.now, key) // nobody may join work that is being cancelled
	}
}
