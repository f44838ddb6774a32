// Package limit bounds how many bytes a second a node sends, or receives. It
// counts and says when to wait; it moves nothing itself.
//
// What somebody waits for has the whole rate for itself: it is never behind
// bulk, which gets what is left. What was spent beyond the rate is made up for
// by waiting afterwards, so the rate holds over a second or so.
//
// A Limit may be used from many goroutines at once; a nil one bounds nothing.
package limit

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	minBurst  = 1 << 20 // bytes: a chunk
	burstPart = 4       // of a second, that may be spent at once
	// lookEvery is how soon a changed rate is seen by those who wait.
	lookEvery = 250 * time.Millisecond
)

// Limit is a rate in bytes per second that can be changed at any time.
type Limit struct {
	now atomic.Pointer[buckets] // nil: no bound
}

// buckets count what was spent at one rate.
type buckets struct {
	rate   int64
	urgent *rate.Limiter // what somebody waits for
	all    *rate.Limiter
}

// New returns a limit of so many bytes per second; 0 is none.
func New(bytesPerSecond int64) *Limit {
	l := &Limit{}
	l.Set(bytesPerSecond)
	return l
}

// Set changes the rate, in bytes per second; 0 is none.
func (l *Limit) Set(bytesPerSecond int64) {
	if bytesPerSecond <= 0 {
		l.now.Store(nil)
		return
	}
	burst := int(max(minBurst, bytesPerSecond/burstPart))
	l.now.Store(&buckets{
		rate:   bytesPerSecond,
		urgent: rate.NewLimiter(rate.Limit(bytesPerSecond), burst),
		all:    rate.NewLimiter(rate.Limit(bytesPerSecond), burst),
	})
}

// Rate returns the present rate in bytes per second, 0 if there is none.
func (l *Limit) Rate() int64 {
	if b := l.buckets(); b != nil {
		return b.rate
	}
	return 0
}

func (l *Limit) buckets() *buckets {
	if l == nil {
		return nil
	}
	return l.now.Load()
}

func (b *buckets) of(urgent bool) *rate.Limiter {
	if urgent {
		return b.urgent
	}
	return b.all
}

// Room reports whether more may be begun now while so many bytes are under way
// that are not spent yet.
func (l *Limit) Room(now time.Time, underWay int, urgent bool) bool {
	b := l.buckets()
	return b == nil || b.of(urgent).TokensAt(now) > float64(underWay)
}

// Wait returns when there is Room, or with ctx's error once ctx is done.
func (l *Limit) Wait(ctx context.Context, urgent bool) error {
	for {
		b := l.buckets()
		if b == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		tokens := b.of(urgent).Tokens()
		if tokens > 0 {
			return nil
		}
		wait := time.Duration((1 - tokens) / float64(b.rate) * float64(time.Second))
		t := time.NewTimer(min(max(wait, time.Millisecond), lookEvery))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// Spend counts n bytes that were moved, at most 1 MiB.
func (l *Limit) Spend(n int, urgent bool) {
	b := l.buckets()
	if b == nil {
		return
	}
	now := time.Now()
	b.all.ReserveN(now, n)
	if urgent {
		b.urgent.ReserveN(now, n)
	}
}
