package swarm

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
)

func TestTheLastRequestsAreRememberedAndOlderOnesForgotten(t *testing.T) {
	var log askLog
	one := chunk.Sum([]byte("one"))
	now := time.Now()
	log.add(one, "a", Waiting, now, now.Add(time.Second), exchange.ErrMissing)
	for i := range maxAsked - 2 {
		log.add(chunk.Sum(binary.LittleEndian.AppendUint32(nil, uint32(i))), "b", Prefetch, now, now, nil)
	}
	log.add(one, "c", Readahead, now, now, nil)
	got := log.of(one)
	if len(got) != 2 || got[0].Peer != "c" || got[0].Answer != Gave || got[1].Peer != "a" ||
		got[1].Answer != exchange.ErrMissing.Error() || got[1].Took != time.Second {
		t.Errorf("remembered: %+v", got)
	}
	log.add(chunk.Sum(nil), "b", Prefetch, now, now, nil)
	if got := log.of(one); len(got) != 1 || got[0].Peer != "c" {
		t.Errorf("after many others: %+v", got)
	}
}

func TestARequestWithoutAnAnswerIsShown(t *testing.T) {
	var log askLog
	id, now := chunk.Sum([]byte("one")), time.Now()
	log.add(id, "a", Waiting, now, now, nil)
	first := log.asking(id, "b", Waiting)
	time.Sleep(time.Microsecond)
	second := log.asking(id, "c", Readahead)
	defer log.asking(chunk.Sum(nil), "d", Waiting)()
	names := func() (s string) {
		for _, a := range log.of(id) {
			s += string(a.Peer) + ": " + a.Answer + "; "
		}
		return s
	}
	if got, want := names(), "c: no answer yet; b: no answer yet; a: gave it; "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	first()
	second()
	if got, want := names(), "a: gave it; "; got != want {
		t.Errorf("afterwards %q, want %q", got, want)
	}
}

func TestWhereaboutsNameMembersAndAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(64, 4<<10)
		defer c.end()
		c.add(t, "seed", "", 100*mbit, true)
		reader := c.add(t, "reader", "", 100*mbit, false)
		node := c.add(t, "node", "", 100*mbit, false)
		defer reader.read(t, 10)()
		c.download(t, node)
		w := node.swarm.Whereabouts(c.table.IDs[20])
		if len(w.Members) != 2 || w.Fetching {
			t.Fatalf("whereabouts: %+v", w)
		}
		for _, m := range w.Members {
			if !m.Near || m.Holds != (m.Peer == "seed") {
				t.Errorf("member %+v", m)
			}
		}
		if len(w.Asked) == 0 || w.Asked[0].Peer != "seed" || w.Asked[0].Answer != Gave || w.Asked[0].Class != Prefetch {
			t.Errorf("asked: %+v", w.Asked)
		}
		if found := node.swarm.Providers(t.Context(), c.table.IDs[20]); len(found) != 0 {
			t.Errorf("providers where nobody announced anything: %v", found)
		}
	})
}
