package exchange

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/limit"
)

// ask lets a wait n times in t and returns the turns.
func (t *turns) ask(a *account, class Class, n int, bytes int64) (out []*turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range n {
		w := &turn{bytes: bytes, ready: make(chan struct{})}
		t.queue(a, class, w)
		out = append(out, w)
	}
	return out
}

func (w *turn) granted() bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}

func grantedOf(all []*turn) (n int) {
	for _, w := range all {
		if w.granted() {
			n++
		}
	}
	return n
}

func TestARequestWaitsForOneTurnOfEachOtherPeer(t *testing.T) {
	const peers, size = 10, 100 << 10
	tu := newTurns(1, 0)
	if err := tu.take(t.Context(), new(account), Prefetch, size); err != nil { // runs now
		t.Fatal(err)
	}
	var greedy []*turn
	for range peers {
		greedy = append(greedy, tu.ask(new(account), Prefetch, 1000, size)...)
	}
	for range 500 { // they got much before
		tu.done(new(account), size, size)
	}
	before := grantedOf(greedy)
	late := tu.ask(new(account), Prefetch, 1, size)[0]
	for !late.granted() {
		tu.done(new(account), size, size)
		if between := grantedOf(greedy) - before; between > peers {
			t.Fatalf("%d turns of %d greedy peers went before a single request", between, peers)
		}
	}
}

func TestPeersGetTheSameBytesWhateverTheirChunksAre(t *testing.T) {
	tu := newTurns(0, 0)
	accounts := []*account{new(account), new(account)}
	sizes := []int64{64 << 10, 1 << 20}
	waits := [][]*turn{tu.ask(accounts[0], Prefetch, 2000, chunk.MaxSize), tu.ask(accounts[1], Prefetch, 2000, chunk.MaxSize)}
	got := make([]int64, 2)
	tu.done(new(account), 0, 0) // the only slot
	for range 1000 {
		for i, a := range accounts {
			if int64(grantedOf(waits[i])) > got[i]/sizes[i] { // it has the slot
				got[i] += sizes[i]
				tu.done(a, chunk.MaxSize, sizes[i])
				break
			}
		}
	}
	if d := got[0] - got[1]; d > 2<<20 || d < -2<<20 {
		t.Errorf("%d bytes in small chunks, %d in large ones", got[0], got[1])
	}
}

func TestTheMostUrgentClassGoesFirstButStarvesNobody(t *testing.T) {
	tu := newTurns(0, 0)
	urgent := tu.ask(new(account), Waiting, 800, 1<<20)
	bulk := tu.ask(new(account), Replication, 800, 1<<20)
	for range 400 {
		tu.done(new(account), 0, 0)
	}
	u, b := grantedOf(urgent), grantedOf(bulk)
	if u+b != 400 || b != 400/blindTurn {
		t.Errorf("%d urgent and %d bulk turns of 400", u, b)
	}
}

func TestPeersThatGiveNothingBackDoNotFillTheMemory(t *testing.T) {
	const bytes, size = 256 << 20, chunk.MaxSize
	tu := newTurns(1<<30, bytes)
	hold := func(a *account) (n int) {
		for {
			tu.mu.Lock()
			ok := tu.fits(a, size)
			tu.mu.Unlock()
			if !ok {
				return n
			}
			if err := tu.take(t.Context(), a, Waiting, size); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	most := hold(new(account))
	if most > bytes/size/shareOfRoom {
		t.Errorf("the first peer holds %d of %d chunks", most, bytes/size)
	}
	for i := range 64 {
		if n := hold(new(account)); n == 0 || n > most {
			t.Fatalf("peer %d holds %d chunks, the first %d", i, n, most)
		}
	}
	if tu.room < 0 {
		t.Errorf("%d bytes more are held than may be", -tu.room)
	}
}

func TestWhoStopsWaitingGivesBackWhatHeGot(t *testing.T) {
	tu := newTurns(1, 16<<20)
	a := new(account)
	if err := tu.take(t.Context(), a, Waiting, 1<<20); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 50 { // some are given the turn while they leave
		wg.Go(func() {
			err := tu.take(ctx, new(account), Class(i%int(numClasses)), 1<<20)
			if err == nil {
				tu.done(new(account), 0, 0)
				tu.giveBack(new(account), 1<<20)
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	waitFor(t, "all to wait", func() bool { tu.mu.Lock(); defer tu.mu.Unlock(); return len(tu.waiting) == 50 })
	go cancel()
	tu.done(a, 1<<20, 0)
	wg.Wait()
	if tu.slots != 1 || tu.room != 16<<20 || len(tu.waiting) != 0 {
		t.Errorf("%d slots, %d bytes, %d waiting; want 1, all, none", tu.slots, tu.room, len(tu.waiting))
	}
}

// sentIn has streams of peers send in virtual time under a limit, and returns
// the bytes of each stream.
func sentIn(t *testing.T, d time.Duration, rate int64, streams ...*served) []int {
	sent := make([]int, len(streams))
	synctest.Test(t, func(t *testing.T) {
		s := &Server{cfg: ServerConfig{Upload: limit.New(rate)}, sends: [numLanes]*turns{newTurns(1, 0), newTurns(1, 0)}}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var wg sync.WaitGroup
		for i, st := range streams {
			st.server = s
			class := Class(st.active.Load())
			wg.Go(func() {
				for st.waitToSend(ctx, limitPiece, class, rate) == nil {
					sent[i] += limitPiece
				}
			})
		}
		wg.Wait()
	})
	return sent
}

// sender returns a stream of a peer that sends in that class.
func sender(g *guest, class Class) *served {
	st := &served{guest: g}
	st.active.Store(int64(class))
	return st
}

func TestALimitedUplinkIsSharedByPeersNotByStreams(t *testing.T) {
	greedy, other := newGuest("greedy"), newGuest("other")
	streams := []*served{sender(other, Prefetch)}
	for range 8 {
		streams = append(streams, sender(greedy, Prefetch))
	}
	sent := sentIn(t, 10*time.Second, 1<<20, streams...)
	all := 0
	for _, n := range sent {
		all += n
	}
	if all < 10<<20 || all > 11<<20+limitPiece { // the burst is 1 MiB
		t.Errorf("%d bytes sent in 10 s at 1 MiB a second", all)
	}
	if sent[0] < all*45/100 || sent[0] > all*55/100 {
		t.Errorf("%d of %d bytes went to one of two peers", sent[0], all)
	}
}

func TestCallingAllUrgentDoesNotStarveBulk(t *testing.T) {
	sent := sentIn(t, 10*time.Second, 1<<20, sender(newGuest("greedy"), Waiting), sender(newGuest("other"), Replication))
	if all := sent[0] + sent[1]; sent[1] < all/16 || sent[1] > all/4 {
		t.Errorf("bulk got %d of %d bytes", sent[1], all)
	}
}
