// Package offence keeps the book of what peers did that no honest, healthy
// node does: how often, of which kind, and when last. It names them in the log,
// each at most once a minute for each kind.
//
// It punishes nobody: who notes an offence decides what follows from it.
//
// A Book may be used from many goroutines at once; a nil one notes nothing.
package offence

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Kind says what a peer did. Its text is what commands and the log show.
type Kind string

// The kinds of offences.
const (
	Malformed Kind = "malformed" // sent a frame the protocol does not allow
	Oversized Kind = "oversized" // announced a frame longer than any may be
	Wants     Kind = "wants"     // asked for more at a time than is queued, or mostly for what is not here
	Streams   Kind = "streams"   // opened more streams than it may have
	Talk      Kind = "talk"      // told more than is listened to
	Forged    Kind = "forged"    // claimed chunks it does not have
	Corrupt   Kind = "corrupt"   // sent bytes that are not the chunk's
	Stalled   Kind = "stalled"   // took or sent nothing while it had to
)

const (
	maxPeers = 1024
	// sayEvery is how long a peer is not named again for the same kind.
	sayEvery = time.Minute
	// maxSaid is how many are named in sayEvery, of all peers.
	maxSaid = 60
)

// Record is what one peer did.
type Record struct {
	Counts map[Kind]uint64
	Last   time.Time
}

// String lists the kinds with their counts, by name.
func (r Record) String() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(r.Counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, r.Counts[k]))
	}
	return strings.Join(parts, ", ")
}

// Book counts offences by peer and kind, of at most 1024 peers: when one more
// comes, the one who did nothing for longest is forgotten.
type Book struct {
	log *slog.Logger

	mu     sync.Mutex
	peers  map[peer.ID]*entry
	since  time.Time // when said was last begun anew
	said   int
	unsaid int // offences not logged since, because too many peers were named
}

type entry struct {
	Record
	said map[Kind]time.Time
}

// NewBook returns an empty book that names offenders in log.
func NewBook(log *slog.Logger) *Book {
	return &Book{log: log, peers: map[peer.ID]*entry{}}
}

// Note counts an offence of p. The detail goes to the log, if p is named there
// now.
func (b *Book) Note(p peer.ID, k Kind, detail string) {
	if b == nil {
		return
	}
	now := time.Now()
	record, unsaid, say := b.note(p, k, now)
	if unsaid > 0 {
		b.log.Warn("more peers misbehave than are named", "offences", unsaid)
	}
	if say {
		b.log.Warn("peer misbehaves", "peer", p, "offence", string(k), "detail", detail, "counted", record.String())
	}
}

// note counts, and says whether p is to be named and how many offences went
// unnamed before.
func (b *Book) note(p peer.ID, k Kind, now time.Time) (r Record, unsaid int, say bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.peers[p]
	if e == nil {
		b.makeRoom()
		e = &entry{Record: Record{Counts: map[Kind]uint64{}}, said: map[Kind]time.Time{}}
		b.peers[p] = e
	}
	e.Counts[k]++
	e.Last = now
	if now.Sub(b.since) >= sayEvery {
		unsaid, b.unsaid = b.unsaid, 0
		b.since, b.said = now, 0
	}
	if now.Sub(e.said[k]) < sayEvery {
		return Record{}, unsaid, false
	}
	if b.said >= maxSaid {
		b.unsaid++
		return Record{}, unsaid, false
	}
	b.said++
	e.said[k] = now
	return e.copy(), unsaid, true
}

// makeRoom forgets a peer when there is no room for another. b.mu is held.
func (b *Book) makeRoom() {
	if len(b.peers) < maxPeers {
		return
	}
	var oldest peer.ID
	var last time.Time
	for p, e := range b.peers {
		if oldest == "" || e.Last.Before(last) {
			oldest, last = p, e.Last
		}
	}
	delete(b.peers, oldest)
}

func (e *entry) copy() Record {
	return Record{Counts: maps.Clone(e.Counts), Last: e.Last}
}

// Of returns what p did; the zero Record if nothing is known.
func (b *Book) Of(p peer.ID) Record {
	if b == nil {
		return Record{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.peers[p]; e != nil {
		return e.copy()
	}
	return Record{}
}

// All returns what each peer did that is still known.
func (b *Book) All() map[peer.ID]Record {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[peer.ID]Record, len(b.peers))
	for p, e := range b.peers {
		all[p] = e.copy()
	}
	return all
}
