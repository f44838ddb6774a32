package exchange

import (
	"context"
	"slices"
	"sync"
)

const (
	// shareOfRoom: while all bytes are free a peer may hold one of so many, and
	// less with the square of what is free. So there is room for another also
	// when many hold what they may and give nothing back.
	shareOfRoom = 8
	// blindTurn: one turn in so many goes to whoever got least, however urgent
	// the others' requests are, so that nobody can starve others by calling
	// everything urgent.
	blindTurn = 8
	// turnCost is what a turn costs at least, in bytes, also if it was for a
	// chunk that is not here.
	turnCost = 4 << 10
)

// turns gives slots, and the right to hold bytes, to those who ask for them: to
// the most urgent class first, and within a class to the peer who got fewest
// bytes (start-time fair queueing; Goyal, Vin and Cheng, 1996). So a request of
// a peer waits for about one turn of each other peer, however many theirs are.
// Before the peers their addresses are compared in the same way, each of which
// counts for as many peers as wait there, up to addressShare.
//
// How many bytes a peer may hold shrinks as all hold more (after the dynamic
// thresholds of Choudhury and Hahne, 1998): peers who never take what was read for them
// cannot fill the memory.
type turns struct {
	mu      sync.Mutex
	slots   int   // free
	bytes   int64 // that may be held in all; 0: any number
	room    int64 // of those, free
	clock   int64 // group.spent of who was served last, when that began
	granted int
	waiting []*account
}

// account is what one peer got in turns. turns.mu guards it.
type account struct {
	of      *group // of its address; nil: it is alone
	alone   group
	spent   int64 // bytes, on the clock of its group
	held    int64 // bytes
	waiting [numClasses][]*turn
	n       int // how many wait
}

// turn is somebody who waits.
type turn struct {
	bytes int64
	ready chan struct{} // closed when it is his
}

func newTurns(slots int, bytes int64) *turns {
	return &turns{slots: slots, bytes: bytes, room: bytes}
}

// take waits for a slot, and for n bytes to hold. It fails only with ctx's
// error.
func (t *turns) take(ctx context.Context, a *account, class Class, n int64) error {
	t.mu.Lock()
	if len(t.waiting) == 0 && t.slots > 0 && t.fits(a, n) {
		t.wind(a)
		t.charge(a, n)
		t.mu.Unlock()
		return nil
	}
	w := &turn{bytes: n, ready: make(chan struct{})}
	t.queue(a, class, w)
	t.grant()
	t.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		t.leave(a, class, w)
		return ctx.Err()
	}
}

// done gives back a slot and those of the n bytes that are not used.
func (t *turns) done(a *account, n, used int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slots++
	a.pay(max(used, turnCost) - turnCost)
	t.release(a, n-used)
	t.grant()
}

// giveBack gives back bytes that are no longer held.
func (t *turns) giveBack(a *account, n int64) {
	if n == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release(a, n)
	t.grant()
}

// queue lets w wait. t.mu is held, as for all that follow.
func (t *turns) queue(a *account, class Class, w *turn) {
	if a.n == 0 {
		t.wind(a)
		a.group().waiting++
		t.waiting = append(t.waiting, a)
	}
	a.waiting[class] = append(a.waiting[class], w)
	a.n++
}

// wind sets the clocks of one who did not wait: there is no credit for having
// asked for nothing.
func (t *turns) wind(a *account) {
	g := a.group()
	if g.waiting == 0 {
		g.spent = max(g.spent, t.clock)
	}
	a.spent = max(a.spent, g.clock)
}

// pay counts n bytes for a.
func (a *account) pay(n int64) {
	a.spent += n
	a.group().spent += n / a.share()
}

// grant gives what is free to who is next.
func (t *turns) grant() {
	for t.slots > 0 {
		a, class := t.next()
		if a == nil {
			return
		}
		w := a.waiting[class][0]
		t.unqueue(a, class, 0)
		t.granted++
		t.charge(a, w.bytes)
		close(w.ready)
	}
}

// next returns whose turn it is: nobody's if all who wait hold too much.
func (t *turns) next() (best *account, class Class) {
	blind := t.granted%blindTurn == blindTurn-1
	for _, a := range t.waiting {
		c := a.urgent()
		if !t.fits(a, a.waiting[c][0].bytes) {
			continue
		}
		if best == nil || !blind && c < class || (blind || c == class) && a.before(best) {
			best, class = a, c
		}
	}
	return best, class
}

// before reports whether a got less than b, or its address did.
func (a *account) before(b *account) bool {
	if g, h := a.group(), b.group(); g != h {
		return g.spent < h.spent
	}
	return a.spent < b.spent
}

// urgent returns the most urgent class that waits.
func (a *account) urgent() Class {
	c := Waiting
	for c < Replication && len(a.waiting[c]) == 0 {
		c++
	}
	return c
}

// fits reports whether n bytes more may be held for a. One who holds nothing
// needs no more than room for it.
func (t *turns) fits(a *account, n int64) bool {
	g := a.group()
	switch {
	case t.bytes == 0:
		return true
	case a.held == 0:
		return g.held+n <= t.room || t.room == t.bytes
	}
	free := float64(t.room) / float64(t.bytes) * float64(t.room)
	return float64(a.held+n) <= free/shareOfRoom && float64(g.held+n) <= free/addressRoom
}

func (t *turns) charge(a *account, n int64) {
	g := a.group()
	t.clock, g.clock = max(t.clock, g.spent), max(g.clock, a.spent)
	t.slots--
	a.pay(turnCost) // the rest when it is known, lest the clock runs ahead
	if t.bytes > 0 {
		a.held += n
		g.held += n
		t.room -= n
	}
}

func (t *turns) release(a *account, n int64) {
	if t.bytes > 0 {
		a.held -= n
		a.group().held -= n
		t.room += n
	}
}

// unqueue takes the i-th who waits with that class away.
func (t *turns) unqueue(a *account, class Class, i int) {
	a.waiting[class] = slices.Delete(a.waiting[class], i, i+1)
	if a.n--; a.n > 0 {
		return
	}
	a.group().waiting--
	at := slices.Index(t.waiting, a)
	last := len(t.waiting) - 1
	t.waiting[at], t.waiting[last] = t.waiting[last], nil
	t.waiting = t.waiting[:last]
}

// leave ends the waiting of w, or gives back what it was just given.
func (t *turns) leave(a *account, class Class, w *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(a.waiting[class], w); i >= 0 {
		t.unqueue(a, class, i)
		return
	}
	t.slots++
	a.pay(-turnCost)
	t.release(a, w.bytes)
	t.grant()
}
