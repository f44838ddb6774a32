package offence

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestAnOffenderIsNamedOnceAMinuteForEachKindAndCountedAlways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := NewBook(slog.New(slog.NewTextHandler(&out, nil)))
		for range 100 {
			b.Note("mallory", Wants, "too many")
		}
		b.Note("mallory", Malformed, "no frame")
		if got := strings.Count(out.String(), "peer misbehaves"); got != 2 {
			t.Errorf("named %d times in a minute:\n%s", got, &out)
		}
		time.Sleep(sayEvery)
		b.Note("mallory", Wants, "again")
		if got := strings.Count(out.String(), "peer misbehaves"); got != 3 {
			t.Errorf("named %d times in two minutes:\n%s", got, &out)
		}
		if got, want := b.Of("mallory").String(), "malformed 1, wants 101"; got != want {
			t.Errorf("counted %q, want %q", got, want)
		}
		if !strings.Contains(out.String(), `counted="malformed 1, wants 101"`) {
			t.Errorf("the log does not say what was done so far:\n%s", &out)
		}
	})
}

func TestTheBookAndTheLogAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := NewBook(slog.New(slog.NewTextHandler(&out, nil)))
		for i := range 3 * maxPeers {
			b.Note(peer.ID(fmt.Sprint("sybil", i)), Streams, "")
			time.Sleep(time.Millisecond) // all within a minute
		}
		if got := len(b.All()); got != maxPeers {
			t.Errorf("%d peers in the book, want %d", got, maxPeers)
		}
		if b.Of("sybil0").Counts != nil || b.Of(peer.ID(fmt.Sprint("sybil", 3*maxPeers-1))).Counts[Streams] != 1 {
			t.Error("not the oldest were forgotten")
		}
		if got := strings.Count(out.String(), "\n"); got != maxSaid {
			t.Errorf("%d lines in the log, want %d", got, maxSaid)
		}
		time.Sleep(sayEvery)
		b.Note("mallory", Streams, "")
		if want := fmt.Sprintf("offences=%d", 3*maxPeers-maxSaid); !strings.Contains(out.String(), want) {
			t.Errorf("the log does not say that %s were not named", want)
		}
	})
}

func TestANilBookNotesNothing(t *testing.T) {
	var b *Book
	b.Note("mallory", Talk, "")
	if b.Of("mallory").Counts != nil || len(b.All()) != 0 {
		t.Error("a nil book knows something")
	}
}
