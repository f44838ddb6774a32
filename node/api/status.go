package api

import "time"

// Status tells how a node is.
type Status struct {
	Version  string         `json:"version"`
	PeerID   string         `json:"peer_id"`
	Addrs    []string       `json:"addrs"`
	Site     string         `json:"site,omitempty"`
	Started  time.Time      `json:"started"`
	Data     string         `json:"data"`
	Peers    int            `json:"peers"` // connected
	Store    StoreStatus    `json:"store"`
	Cache    CacheStatus    `json:"cache"`
	Net      NetStatus      `json:"net"`
	Announce AnnounceStatus `json:"announce"`
	Mounts   []MountInfo    `json:"mounts"`
	FLists   []PinInfo      `json:"flists"`

	Replications []Replication `json:"replications"`

	Unreached []UnreachedPeer `json:"unreached,omitempty"` // peers to begin with
}

// UnreachedPeer is a peer the node was given to begin with and cannot reach.
type UnreachedPeer struct {
	ID    string `json:"id"`
	Error string `json:"error"` // of the last attempt
}

// StoreStatus tells about the chunk store.
type StoreStatus struct {
	Chunks    uint64 `json:"chunks"`
	Bytes     uint64 `json:"bytes"`      // of the chunks, as stored
	DiskBytes uint64 `json:"disk_bytes"` // of the store's files
	FreeBytes uint64 `json:"free_bytes"` // left on its file system
}

// CacheStatus tells about the cache of unpacked chunks in memory.
type CacheStatus struct {
	Chunks   int    `json:"chunks"`
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes"`
	Hits     uint64 `json:"hits"`
	Misses   uint64 `json:"misses"`
}

// NetStatus tells what was exchanged with peers since the node started.
type NetStatus struct {
	ChunksFetched uint64 `json:"chunks_fetched"`
	ChunksServed  uint64 `json:"chunks_served"`
	BytesReceived uint64 `json:"bytes_received"`
	BytesSite     uint64 `json:"bytes_received_site"`  // of those received, from peers at this site
	BytesOther    uint64 `json:"bytes_received_other"` // of those received, from other sites
	BytesNeedless uint64 `json:"bytes_needless"`       // came after the same chunk from another peer; not in those received
	BytesSent     uint64 `json:"bytes_sent"`
	Hedged        uint64 `json:"hedged"`   // chunks asked for at a second peer
	Failures      uint64 `json:"failures"` // requests to peers that failed
}

// AnnounceStatus tells about what this node announces in the DHT.
type AnnounceStatus struct {
	Setting     string     `json:"setting"`          // auto, chunks or roots
	Mode        string     `json:"mode"`             // in force: chunks or roots
	Roots       uint64     `json:"roots"`            // kept announced
	Chunks      uint64     `json:"chunks"`           // kept announced
	Pending     uint64     `json:"pending"`          // roots and chunks waiting for it
	Oldest      *time.Time `json:"oldest,omitempty"` // of the chunks' announcements, once all were announced
	RecordsSent uint64     `json:"records_sent"`     // to peers, since the start
	BytesSent   uint64     `json:"bytes_sent"`       // of these records
}

// NotConnected is the Direction of a peer that is listed for its Offences alone.
const NotConnected = "gone"

// Peer is a connected peer, or one that was and is listed for what it did.
type Peer struct {
	ID             string        `json:"id"`
	Addrs          []string      `json:"addrs"`
	Agent          string        `json:"agent,omitempty"`
	Site           string        `json:"site,omitempty"`
	Direction      string        `json:"direction"` // "in", "out" or NotConnected
	Latency        time.Duration `json:"latency_ns"`
	ChunksReceived uint64        `json:"chunks_received"`
	BytesReceived  uint64        `json:"bytes_received"`
	ChunksSent     uint64        `json:"chunks_sent"`
	BytesSent      uint64        `json:"bytes_sent"`
	Failures       uint64        `json:"failures"`                   // stalls, broken connections, wrong bytes, false claims
	AvoidedUntil   *time.Time    `json:"avoided_until,omitempty"`    // not asked for anything before
	Reason         string        `json:"last_avoided_for,omitempty"` // why it is or was avoided

	// Offences counts what the peer did that it should not, since the node
	// started: malformed, oversized, wants, streams, talk, forged, corrupt, stalled.
	Offences map[string]uint64 `json:"offences,omitempty"`
}

// Identity says who a node is and where it listens. Addrs end in its peer ID,
// so that they can be given to another node as they are.
type Identity struct {
	PeerID  string   `json:"peer_id"`
	Addrs   []string `json:"addrs"`
	Version string   `json:"version"`
	Site    string   `json:"site,omitempty"`
}
