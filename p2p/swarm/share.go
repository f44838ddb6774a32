package swarm

import (
	"bytes"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p/exchange"
	"github.com/libp2p/go-libp2p/core/peer"
)

// ChunkTable names the chunks of an flist by their place in it. It must not be
// modified.
type ChunkTable struct {
	Root chunk.ID
	IDs  []chunk.ID
}

const (
	maxShares  = 64
	maxMembers = 256 // of one flist
	// newsTime is how long a member that tells nothing new counts as one that
	// is fetching, and how long a chunk somebody said to be fetching is left to
	// him.
	newsTime = 5 * time.Second
)

// share is an flist this node shares with others: who holds which of its
// chunks. shares.mu guards it.
type share struct {
	table   ChunkTable
	order   []uint32 // places, by chunk ID
	have    bitmap   // held here
	n       int      // how many
	members map[peer.ID]*member
	asides  int      // how many of them are set aside
	holders []uint16 // members that hold the chunk
	grown   []uint16 // those of them that were not complete when they joined
	site    []uint16 // those of them that are at this node's site
	jobs    map[*job]struct{}
	begun   map[uint32]claim // chunks a member of the site said it fetches
	told    map[peer.ID]bool // who was told that this node shares it
	attends int              // calls of Attend
	kept    bool             // copies are kept: even who has all is told what comes
	used    time.Time
}

// member is a peer that shares an flist.
type member struct {
	at    string // its address
	have  bitmap
	n     int
	seed  bool          // was complete when it joined
	near  bool          // at this node's site
	reads bool          // fetches only what is read: nothing is left to it
	aside bool          // it answers nothing: what it holds is not counted
	news  time.Time     // when it last told something
	gap   time.Duration // the longest it lately told nothing

	doubted time.Time // before, its claims are not believed
}

// shares is what is known of who has what.
type shares struct {
	mu        sync.Mutex
	all       map[chunk.ID]*share
	interests interests              // in flists not shared here
	loading   map[chunk.ID]time.Time // when Held was last asked
	loadNext  map[peer.ID]time.Time  // when a peer may cause a load again
	loads     int                    // that wait or run
	loadSlots chan struct{}
	sites     map[peer.ID]string // as peers told
}

func newShares(address func(peer.ID) string) *shares {
	return &shares{
		all: map[chunk.ID]*share{}, interests: newInterests(address),
		loading: map[chunk.ID]time.Time{}, loadNext: map[peer.ID]time.Time{}, loadSlots: make(chan struct{}, parallelLoads),
		sites: map[peer.ID]string{},
	}
}

// place returns the place of id in the table.
func (sh *share) place(id chunk.ID) (uint32, bool) {
	at, ok := slices.BinarySearchFunc(sh.order, id, func(i uint32, id chunk.ID) int {
		return bytes.Compare(sh.table.IDs[i][:], id[:])
	})
	if !ok {
		return 0, false
	}
	return sh.order[at], true
}

// count adds d to the counts of a chunk m holds, unless m is set aside.
func (sh *share) count(m *member, i uint32, d uint16) {
	if !m.aside {
		sh.tally(m, i, d)
	}
}

func (sh *share) tally(m *member, i uint32, d uint16) {
	sh.holders[i] += d
	if !m.seed {
		sh.grown[i] += d
	}
	if m.near {
		sh.site[i] += d
	}
}

const minus = ^uint16(0)

func (sh *share) remove(p peer.ID) {
	m := sh.members[p]
	if m == nil {
		return
	}
	for i := range m.have.each {
		sh.count(m, i, minus)
	}
	if m.aside {
		sh.asides--
	}
	delete(sh.members, p)
}

// ErrTable says that a chunk table cannot be shared.
var ErrTable = errors.New("chunk table is too large to be shared by bitmaps")

// Share makes this node share the flist of t with others: it tells them what it
// holds, held (places in the table) now and more as Came is called, and hears
// what they hold. Sharing an flist again only adds to what is held.
func (s *Swarm) Share(t ChunkTable, held []uint32) error {
	if len(t.IDs) > exchange.MaxTable {
		return ErrTable
	}
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	if sh := h.all[t.Root]; sh != nil {
		sh.used = time.Now()
		s.holds(sh, held)
		return nil
	}
	s.makeRoom()
	n := len(t.IDs)
	sh := &share{
		table: t, have: newBitmap(n), members: map[peer.ID]*member{}, order: make([]uint32, n),
		holders: make([]uint16, n), grown: make([]uint16, n), site: make([]uint16, n),
		jobs: map[*job]struct{}{}, begun: map[uint32]claim{}, told: map[peer.ID]bool{}, used: time.Now(),
	}
	for i := range sh.order {
		sh.order[i] = uint32(i)
	}
	slices.SortFunc(sh.order, func(a, b uint32) int { return bytes.Compare(t.IDs[a][:], t.IDs[b][:]) })
	h.all[t.Root] = sh
	s.holds(sh, held)
	for p, in := range h.interests.take(t.Root) {
		s.joined(sh, p, in.join)
		if m := sh.members[p]; m != nil {
			m.reads = in.reads
		}
	}
	return nil
}

// makeRoom forgets the flist not used for longest. h.mu is held.
func (s *Swarm) makeRoom() {
	h := s.shares
	if len(h.all) < maxShares {
		return
	}
	var oldest *share
	for _, sh := range h.all {
		if !sh.needed() && (oldest == nil || sh.used.Before(oldest.used)) {
			oldest = sh
		}
	}
	if oldest != nil {
		s.unshare(oldest)
	}
}

// holds notes that this node holds the chunks at these places.
func (s *Swarm) holds(sh *share, places []uint32) {
	for _, i := range places {
		if int(i) < len(sh.table.IDs) && !sh.have.has(i) {
			s.gain(sh, i)
		}
	}
}

// Members returns how many peers are known to share an flist.
func (s *Swarm) Members(root chunk.ID) int {
	s.shares.mu.Lock()
	defer s.shares.mu.Unlock()
	if sh := s.shares.all[root]; sh != nil {
		return len(sh.members)
	}
	return 0
}

// Came notes that this node now holds a chunk. It does not block.
func (s *Swarm) Came(id chunk.ID) {
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, sh := range h.all {
		if i, ok := sh.place(id); ok && !sh.have.has(i) {
			s.gain(sh, i)
		}
	}
}

// Went notes that this node no longer holds a chunk.
func (s *Swarm) Went(id chunk.ID) {
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, sh := range h.all {
		if i, ok := sh.place(id); ok && sh.have.has(i) {
			sh.have.clear(i)
			sh.n--
			if sh.kept { // others count on it
				s.rejoin(sh)
			}
		}
	}
}

// gain notes a chunk that came and tells those who miss it.
func (s *Swarm) gain(sh *share, i uint32) {
	sh.have.set(i)
	sh.n++
	delete(sh.begun, i)
	for p, m := range sh.members {
		if sh.told[p] && (!m.seed || sh.kept) {
			s.talkers.have(p, sh.table.Root, i)
		}
	}
	for p := range sh.told {
		if sh.members[p] == nil {
			s.talkers.have(p, sh.table.Root, i)
		}
	}
	for j := range sh.jobs {
		j.came(i)
	}
}

// rejoin makes all who were told that sh is shared be told again, with all
// that is held.
func (s *Swarm) rejoin(sh *share) {
	for p := range sh.told {
		s.talkers.join(p, sh.table.Root)
	}
}

// tell tells p that this node shares sh, if it was not told yet.
func (s *Swarm) tell(sh *share, p peer.ID) {
	if sh.told[p] || p == s.cfg.Self || len(sh.told) >= maxMembers && !s.tellFewer(sh, s.address(p)) {
		return
	}
	sh.told[p] = s.talkers.join(p, sh.table.Root)
}

func (sh *share) poke() {
	for j := range sh.jobs {
		poke(j.wake)
	}
}

// with goes through the flists of roots that are shared and have the chunk id,
// with its place in each. h.mu is held.
func (h *shares) with(roots []chunk.ID, id chunk.ID) iter.Seq2[*share, uint32] {
	return func(yield func(*share, uint32) bool) {
		for _, root := range roots {
			sh := h.all[root]
			if sh == nil {
				continue
			}
			if i, ok := sh.place(id); ok && !yield(sh, i) {
				return
			}
		}
	}
}

// holding returns members that hold id: those of this site, those beyond, and
// those whose claims are doubted.
func (s *Swarm) holding(roots []chunk.ID, id chunk.ID, now time.Time) (near, far, doubted []peer.ID) {
	h := s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	for sh, i := range h.with(roots, id) {
		for p, m := range sh.members {
			switch {
			case !m.have.has(i):
			case now.Before(m.doubted):
				doubted = append(doubted, p)
			case m.near:
				near = append(near, p)
			default:
				far = append(far, p)
			}
		}
	}
	return near, far, doubted
}
