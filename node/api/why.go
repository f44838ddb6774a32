package api

import "time"

// WhyRequest names a chunk by its CID, or the chunks of the file Path (any
// bytes) of an flist. It travels in the query.
type WhyRequest struct {
	Chunk string
	FList string
	Path  string
}

// MaxWhy is how many chunks of a file a Why tells about.
const MaxWhy = 64

// Why says who has chunks and who was asked for them.
type Why struct {
	FListProviders []string   `json:"flist_providers,omitempty"` // who announced the flist, if one was named
	Chunks         []WhyChunk `json:"chunks"`                    // in the order of the file
	Left           int        `json:"left,omitempty"`            // chunks of the file beyond MaxWhy
}

// WhyChunk says who has a chunk.
type WhyChunk struct {
	CID       string     `json:"cid"`
	Bytes     int        `json:"bytes,omitempty"` // plain; 0 if not known
	Here      bool       `json:"here"`
	Fetching  bool       `json:"fetching"`  // now
	Members   []WhyPeer  `json:"members"`   // peers that share an flist with it, those that hold it first
	Providers []string   `json:"providers"` // who announced the chunk itself in the DHT
	Asked     []WhyAsked `json:"asked"`     // now and lately, the last one first
}

// WhyPeer is a peer that shares an flist with the chunk.
type WhyPeer struct {
	Peer    string `json:"peer"`
	OwnSite bool   `json:"own_site"`
	Holds   bool   `json:"holds"` // as it told
}

// WhyAsked is a request to a peer and how it ended, or that it has not.
type WhyAsked struct {
	Peer   string        `json:"peer"`
	Class  string        `json:"class"` // how urgent it was
	Time   time.Time     `json:"time"`  // of the answer; now if there is none yet
	Took   time.Duration `json:"took_ns"`
	Answer string        `json:"answer"`
}
