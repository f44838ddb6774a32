package api

import "time"

// PackRequest asks for a directory to be packed. Dir and Exclude travel in
// the query, since they need not be UTF-8.
type PackRequest struct {
	Dir              string            `json:"-"`
	Name             string            `json:"name,omitempty"` // kept with the flist's record; not part of the CID
	Exclude          []string          `json:"-"`              // patterns as in path.Match; those without a slash match any name
	OneFileSystem    bool              `json:"one_file_system,omitempty"`
	Reproducible     bool              `json:"reproducible,omitempty"`
	IgnoreUnreadable bool              `json:"ignore_unreadable,omitempty"`
	SourceDateEpoch  *int64            `json:"source_date_epoch,omitempty"` // seconds; used with Reproducible
	Annotations      map[string]string `json:"annotations,omitempty"`
	Workers          int               `json:"workers,omitempty"` // 0: one per processor
}

// PackProgress says how far a pack has come.
type PackProgress struct {
	Entries uint64 `json:"entries"`
	Files   uint64 `json:"files"`
	Bytes   uint64 `json:"bytes"`     // content read
	Stored  uint64 `json:"new_bytes"` // plain bytes of chunks that were new to the store
	Chunks  uint64 `json:"chunks"`
}

// PackResult says what a pack made.
type PackResult struct {
	CID           string    `json:"cid"`
	Entries       uint64    `json:"entries"`
	Files         uint64    `json:"files"`
	Bytes         uint64    `json:"bytes"`          // content of all files, each inode once
	StoredBytes   uint64    `json:"stored_bytes"`   // of all chunks, compressed
	NewBytes      uint64    `json:"new_bytes"`      // of the chunks that were new, compressed
	MetadataBytes uint64    `json:"metadata_bytes"` // of the metadata chunks, compressed
	Chunks        uint64    `json:"chunks"`
	NewChunks     uint64    `json:"new_chunks"`
	Seconds       float64   `json:"seconds"`
	Unreadable    []Problem `json:"unreadable,omitempty"`
}

// Problem is a path and what is wrong with it.
type Problem struct {
	Path  string // any bytes; see text.go for its JSON form
	Error string
}

// FetchRequest asks for the chunks of an flist to be brought here.
type FetchRequest struct {
	FList        string `json:"flist"`
	MetadataOnly bool   `json:"metadata_only,omitempty"`
	Name         string `json:"name,omitempty"`
}

// FetchProgress says how far a fetch has come. Chunks and Bytes (plain) count
// what is here, fetched now or before.
type FetchProgress struct {
	Chunks      uint64 `json:"chunks"`
	TotalChunks uint64 `json:"total_chunks"`
	Bytes       uint64 `json:"bytes"`
	TotalBytes  uint64 `json:"total_bytes"`
	NewChunks   uint64 `json:"new_chunks"`
	NewBytes    uint64 `json:"new_bytes"` // plain
	Peers       int    `json:"peers"`     // that share the flist
}

// FetchResult says what a fetch brought. Bytes are plain.
type FetchResult struct {
	CID       string  `json:"cid"`
	Chunks    uint64  `json:"chunks"`
	Bytes     uint64  `json:"bytes"`
	NewChunks uint64  `json:"new_chunks"`
	NewBytes  uint64  `json:"new_bytes"`
	Seconds   float64 `json:"seconds"`
	Needless  uint64  `json:"needless_bytes"` // sent meanwhile to the node by peers, and not needed; as packed
}

// UnpackRequest asks for the tree of an flist to be written into Dir, which
// must not exist or be empty unless Overwrite is set. Dir travels in the query.
type UnpackRequest struct {
	FList     string `json:"flist"`
	Dir       string `json:"-"`
	Overwrite bool   `json:"overwrite,omitempty"`
	Workers   int    `json:"workers,omitempty"` // 0: one per processor
}

// UnpackProgress says how far an unpack has come.
type UnpackProgress struct {
	Entries      uint64 `json:"entries"`
	TotalEntries uint64 `json:"total_entries"`
	Bytes        uint64 `json:"bytes"`
	TotalBytes   uint64 `json:"total_bytes"`
}

// UnpackResult says what an unpack wrote and what it had no right to restore.
type UnpackResult struct {
	CID         string    `json:"cid"`
	Entries     uint64    `json:"entries"`
	Files       uint64    `json:"files"`
	Bytes       uint64    `json:"bytes"`
	Seconds     float64   `json:"seconds"`
	NotRestored []Problem `json:"not_restored,omitempty"`
}

// ListOptions says what a listing holds.
type ListOptions struct {
	Recursive bool // all below the path, not only its children
	Digests   bool // with the SHA-256 of each file; fetches that table
	Self      bool // only the path itself, not the entries in it
}

// The types of an Entry.
const (
	TypeFile    = "file"
	TypeDir     = "dir"
	TypeSymlink = "symlink"
	TypeFIFO    = "fifo"
	TypeSocket  = "socket"
	TypeChar    = "char"
	TypeBlock   = "block"
)

// Entry is a name in an image and the inode behind it. Path and Target may be
// any bytes; text.go says how they look as JSON.
type Entry struct {
	Path   string // from the image's root, with leading slash
	Type   string
	Mode   uint32 // the 12 permission bits
	UID    uint32
	GID    uint32
	Size   uint64
	Nlink  uint32
	Inode  uint32
	Mtime  Time
	Btime  *Time // nil if not recorded
	Rdev   uint64
	Target string // of a symlink
	Xattrs []Xattr
	Digest string // SHA-256 of a file's content in hex, "" if not asked or not recorded
}

// Time is a moment as file systems keep it. It is not a time.Time, since that
// has no JSON form beyond the year 9999.
type Time struct {
	Sec  int64  `json:"sec"` // since 1970, may be negative
	Nsec uint32 `json:"nsec"`
}

// Time returns t as a time.Time in UTC.
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// Xattr is an extended attribute. Value is base64 in JSON.
type Xattr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// The kinds of a Change.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// Change is one difference between two images.
type Change struct {
	Kind string   `json:"kind"`
	What []string `json:"what,omitempty"` // of a changed entry: "content", "mode", "owner" ...
	Old  *Entry   `json:"old,omitempty"`  // nil when added
	New  *Entry   `json:"new,omitempty"`  // nil when removed
}

// Path returns the path that changed.
func (c Change) Path() string {
	switch {
	case c.New != nil:
		return c.New.Path
	case c.Old != nil:
		return c.Old.Path
	}
	return ""
}

// Inspection says what is in an flist, where its bytes go, and how much of it
// is held here.
type Inspection struct {
	CID             string            `json:"cid"`
	FormatVersion   uint64            `json:"format_version"`
	Entries         uint64            `json:"entries"` // names
	Inodes          uint64            `json:"inodes"`
	Bytes           uint64            `json:"bytes"` // sizes of all files, each inode once
	Types           map[string]uint64 `json:"types"` // inodes by type
	Annotations     map[string]string `json:"annotations,omitempty"`
	Sections        []Section         `json:"sections"`
	MetadataChunks  uint64            `json:"metadata_chunks"`
	MetadataBytes   uint64            `json:"metadata_bytes"`        // plain
	MetadataPacked  uint64            `json:"metadata_packed_bytes"` // as stored
	DataChunks      uint64            `json:"data_chunks"`
	DataChunksHere  uint64            `json:"data_chunks_here"`
	DataBytes       uint64            `json:"data_bytes"` // plain
	DataBytesHere   uint64            `json:"data_bytes_here"`
	DataPackedBytes uint64            `json:"data_packed_bytes_here"` // as stored, of those here
}

// Section is a table of an flist's metadata. The root block is listed as the
// section "root".
type Section struct {
	Name        string `json:"name"`
	Chunks      uint64 `json:"chunks"`
	ChunksHere  uint64 `json:"chunks_here"`
	Bytes       uint64 `json:"bytes"`        // plain
	PackedBytes uint64 `json:"packed_bytes"` // as stored, of the chunks here
}

// VerifyRequest asks for chunks to be read and checked: those of one flist, or
// all of the store if FList is empty.
type VerifyRequest struct {
	FList   string `json:"flist,omitempty"`
	Digests bool   `json:"digests,omitempty"` // also check each file's SHA-256; only with FList
}

// VerifyProgress says how far a verification has come.
type VerifyProgress struct {
	Chunks      uint64 `json:"chunks"`
	TotalChunks uint64 `json:"total_chunks"`
	Bytes       uint64 `json:"bytes"`
}

// VerifyResult says what was found. The lists are cut at MaxListed; the counts
// are not.
type VerifyResult struct {
	Checked       uint64    `json:"checked"` // chunks that are here
	Bytes         uint64    `json:"bytes"`   // plain
	Missing       uint64    `json:"missing"`
	Corrupt       uint64    `json:"corrupt"`
	Files         uint64    `json:"files"` // whose digest was checked
	WrongFiles    uint64    `json:"wrong_files"`
	MissingChunks []string  `json:"missing_chunks,omitempty"`
	CorruptChunks []Problem `json:"corrupt_chunks,omitempty"`
	WrongDigests  []Problem `json:"wrong_digests,omitempty"`
	Seconds       float64   `json:"seconds"`
}

// OK reports whether nothing was missing or wrong.
func (r VerifyResult) OK() bool { return r.Missing == 0 && r.Corrupt == 0 && r.WrongFiles == 0 }

// MaxListed bounds each list of problems in a result.
const MaxListed = 1000

// MountRequest asks for an flist to be mounted on Dir, which must exist and be
// empty unless NonEmpty is set. Dir travels in the query.
type MountRequest struct {
	FList      string `json:"flist"`
	Dir        string `json:"-"`
	Name       string `json:"name,omitempty"`
	NonEmpty   bool   `json:"non_empty,omitempty"`
	AllowOther bool   `json:"allow_other,omitempty"` // other users may look into it
	SetUID     bool   `json:"set_uid,omitempty"`     // setuid bits and file capabilities have effect
	Devices    bool   `json:"devices,omitempty"`     // device nodes can be opened
	ReadWrite  bool   `json:"read_write,omitempty"`  // changes go to a layer above
	// Upper is the directory that keeps the changes; "" throws them away when
	// the mount ends. It travels in the query.
	Upper    string `json:"-"`
	Prefetch string `json:"prefetch,omitempty"` // one of the Prefetch constants; "" is PrefetchProfile
}

// What a mount fetches before it is asked for.
const (
	PrefetchNone    = "none"
	PrefetchProfile = "profile" // what a workload touched at its start, here or on a peer
	PrefetchAll     = "all"     // that, then everything else
)

// ProfileInfo is the order in which a workload first touched the data chunks
// of an flist.
type ProfileInfo struct {
	FList       string   `json:"flist"`
	Chunks      []uint32 `json:"chunks"`       // indexes in the flist's table of chunks
	Bytes       uint64   `json:"bytes"`        // of them, plain
	PackedBytes uint64   `json:"packed_bytes"` // as stored, of those that are here
}

// MountInfo is a mount of this node.
type MountInfo struct {
	Dir        string // any bytes
	FList      string
	Name       string
	Since      time.Time
	ReadWrite  bool
	Upper      string // directory that keeps the changes; any bytes, "" if they are thrown away
	Problem    string // why it is remembered but not mounted; "" if it is mounted
	Detached   bool   // no longer in the tree, but still in use
	BytesRead  uint64 // by the kernel
	ReadErrors uint64 // reads that failed
	Requests   map[string]uint64
	Chunks     ChunkOrigins
	Slowest    []SlowRead // the slowest first
}

// ChunkOrigins says how often a mount found a chunk where.
type ChunkOrigins struct {
	Cache     uint64 `json:"cache"` // in memory
	Store     uint64 `json:"store"` // on disk
	Peers     uint64 `json:"peers"`
	PeerBytes uint64 `json:"peer_bytes"` // plain
}

// SlowRead is a read of a mounted file that took long.
type SlowRead struct {
	Path   string // in the image; any bytes
	Offset uint64
	Millis float64
	At     time.Time
	Failed bool
}

// PinInfo is an flist the node holds on purpose. Time is when it was last
// asked for.
type PinInfo struct {
	CID  string    `json:"cid"`
	Name string    `json:"name,omitempty"`
	How  string    `json:"how"` // one of the How constants
	Time time.Time `json:"time"`
}

// How an flist came to be held.
const (
	HowPacked     = "packed"
	HowFetched    = "fetched"
	HowMounted    = "mounted"
	HowImported   = "imported"
	HowReplicated = "replicated" // for the site
)
