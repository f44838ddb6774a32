package node

import (
	"context"
	"errors"
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
	return f.wait(ctx, key, f.join(ctx, key, work))
}

// lead is do for work that soon ends by itself: the first caller does it, on
// his own goroutine, and cannot leave, which saves handing it to another. The
// others wait as with do.
func (f *flights[K, V]) lead(ctx context.Context, key K, work func(context.Context) (V, error)) (V, error) {
	f.mu.Lock()
	if fl, ok := f.now[key]; ok {
		fl.waiters++
		f.mu.Unlock()
		return f.wait(ctx, key, fl)
	}
	fl := &flight[V]{waiters: 1, cancel: func() {}, done: make(chan struct{}), err: errPanic}
	f.add(key, fl)
	f.mu.Unlock()
	defer close(fl.done)
	defer f.land(key, fl)
	fl.value, fl.err = work(context.WithoutCancel(ctx))
	return fl.value, fl.err
}

// errPanic is what others get when who leads does not return.
var errPanic = errors.New("a fault in the program ended the work that was waited for")

func (f *flights[K, V]) wait(ctx context.Context, key K, fl *flight[V]) (V, error) {
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
	f.add(key, fl)
	go func() { // ends soon after its last waiter has left
		fl.value, fl.err = work(shared)
		f.land(key, fl)
		close(fl.done)
	}()
	return fl
}

// add is called with the lock held.
func (f *flights[K, V]) add(key K, fl *flight[V]) {
	if f.now == nil {
		f.now = make(map[K]*flight[V])
	}
	f.now[key] = fl
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
