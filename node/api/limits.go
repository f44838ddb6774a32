package api

// Limits are what a node sends to peers and takes from them at most, in bytes
// of chunks per second; 0 is no limit.
type Limits struct {
	Upload   int64 `json:"upload"`
	Download int64 `json:"download"`
}

// LimitsRequest changes limits; what is nil stays.
type LimitsRequest struct {
	Upload   *int64 `json:"upload,omitempty"`
	Download *int64 `json:"download,omitempty"`
}
