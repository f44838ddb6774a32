package node

import "time"

// What a node announces: the setting, and what it shows as being in force. The
// root blocks of flists are announced in any case.
const (
	AnnounceAuto   = "auto"   // chunks as long as that is cheap
	AnnounceChunks = "chunks" // each chunk held
	AnnounceRoots  = "roots"  // no chunk: they are found by their flist
)

// The bounds of "auto", in records sent in the 22 hours after which a node
// announces everything again; see "What announcing costs" in docs/protocol.md
// for what a record costs. Where all nodes hold the same number of chunks, a
// node is sent as many as it sends.
const (
	maxRecords   = 2_000_000          // above, chunks are no longer announced
	fewRecords   = maxRecords * 3 / 4 // below, they are announced again
	mostReplicas = 20                 // of a record, in a network of any size
)

const (
	// modeLook is how often the mode is looked at.
	modeLook = 10 * time.Second
	// modeSettle is how long the reason for another mode must last. A network
	// that a node joins seems small at first.
	modeSettle = 30 * time.Second
)

// announceMode chooses between announcing chunks and only roots.
type announceMode struct {
	setting string
	chunks  bool
	since   time.Time // since when the other mode would be right; zero if it is not
}

// begin chooses for so many chunks when nothing is known of the network.
func (m *announceMode) begin(held int) (chunks bool) {
	m.chunks = m.setting == AnnounceChunks || m.setting == AnnounceAuto && held*mostReplicas < fewRecords
	return m.chunks
}

// look chooses for so many chunks of which each record goes to so many peers.
func (m *announceMode) look(held, replicas int, now time.Time) (chunks bool) {
	if want := m.want(held, replicas); want == m.chunks {
		m.since = time.Time{}
	} else if m.since.IsZero() {
		m.since = now
	} else if now.Sub(m.since) >= modeSettle {
		m.chunks, m.since = want, time.Time{}
	}
	return m.chunks
}

func (m *announceMode) want(held, replicas int) (chunks bool) {
	records := held * replicas
	switch {
	case m.setting != AnnounceAuto:
		return m.setting == AnnounceChunks
	case replicas == 0: // alone
		return m.chunks
	case m.chunks:
		return records <= maxRecords
	default:
		return records < fewRecords
	}
}

// modeName is how a mode is shown.
func modeName(chunks bool) string {
	if chunks {
		return AnnounceChunks
	}
	return AnnounceRoots
}
