package api

import "time"

// Copies of an flist a site can be asked to keep: at most, and if the request
// does not say.
const (
	MaxCopies     = 64
	DefaultCopies = 2
)

// ReplicateRequest asks for copies of every chunk of an flist to be kept at
// this node's site.
type ReplicateRequest struct {
	FList  string `json:"flist"`
	Copies int    `json:"copies,omitempty"`  // 1 to MaxCopies; 0: as many as are wished already, else DefaultCopies
	NoWait bool   `json:"no_wait,omitempty"` // answer when the wish is noted, not when the copies are there
}

// Replication is a wish for copies, and how far it is fulfilled as this node
// sees it. Chunks are those of data and metadata; copies are on different
// nodes of the site.
type Replication struct {
	CID    string    `json:"cid"`
	Name   string    `json:"name,omitempty"`
	Copies int       `json:"copies"`     // wished
	Here   bool      `json:"asked_here"` // of this node, not of another of the site
	Since  time.Time `json:"since"`
	Known  bool      `json:"known"`  // what follows is known: the flist is loaded
	Nodes  int       `json:"nodes"`  // of the site that take part, this one included
	Takers int       `json:"takers"` // of them that take more chunks
	Chunks uint64    `json:"chunks"`
	Enough uint64    `json:"chunks_enough"` // with as many copies as wished
	Fewer  uint64    `json:"chunks_fewer"`  // with fewer, but some
	None   uint64    `json:"chunks_none"`   // that nobody at the site holds
	Lost   uint64    `json:"chunks_lost"`   // of those, searched for by this node and found nowhere
	Made   uint64    `json:"copies_made"`   // copies of chunks, counting no more of a chunk than wished
	Bytes  uint64    `json:"bytes"`         // plain, of one copy
	// Problem says why there are too few copies and will be, as things are.
	Problem string `json:"problem,omitempty"`
}

// OK reports whether there are as many copies of every chunk as wished.
func (r Replication) OK() bool { return r.Known && r.Enough == r.Chunks }
