// Package api is the control interface of a node: what a command can ask, how
// the question and the answer look as JSON, and the HTTP server and client
// that carry them over a unix socket or, within one process, over memory.
//
// It does no work of its own: the server hands every request to a Service,
// which node.Node is, and the Client is a Service too. So a command is written
// once and does not know whether a daemon or its own process serves it.
//
// A long operation answers with a stream of JSON lines (events.go). A client
// that goes away, or closes its sending half, cancels its operation; in the
// latter case it still reads how that ended.
//
// A Client and a Handler may be used from many goroutines at once.
package api

import (
	"context"
	"io"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Service is everything a node can be asked. The node implements it, and the
// Client does by asking a node. It is made of small parts, so that whoever
// needs one part says so.
//
// FList arguments are flist CIDs. Paths within an image begin at its root,
// with or without a leading slash. Directories outside it (to pack, mount and
// unpack) must be absolute.
type Service interface {
	Maker
	Taker
	Reader
	Checker
	Mounter
	Profiler
	Keeper
	Replicator
	Limiter
	Reporter
}

// Maker brings images into a node.
type Maker interface {
	// Pack turns a directory into an flist. progress may be nil; it is called
	// from one goroutine at a time.
	Pack(ctx context.Context, req PackRequest, progress func(PackProgress)) (PackResult, error)
	// Import reads the content of a .flist file and returns the flist's CID.
	Import(ctx context.Context, r io.Reader) (string, error)
}

// Taker takes images out of the network and out of a node.
type Taker interface {
	// Fetch brings every chunk of an flist to the node.
	Fetch(ctx context.Context, req FetchRequest, progress func(FetchProgress)) (FetchResult, error)
	// Unpack writes the tree of an flist into a directory.
	Unpack(ctx context.Context, req UnpackRequest, progress func(UnpackProgress)) (UnpackResult, error)
	// Export writes a .flist file: the metadata, with the table of per-file
	// digests and the data chunks if asked.
	Export(ctx context.Context, flist string, digests, data bool, w io.Writer) error
}

// Reader looks into an image.
type Reader interface {
	// List calls each for the entries of the directory path in order of their
	// names, with Recursive for all below it, depth first. Anything but a
	// directory is listed itself. An error of each ends the listing and is
	// returned.
	List(ctx context.Context, flist, path string, opts ListOptions, each func(Entry) error) error
	// Stat tells about one path. The digest is there if it is recorded and the
	// table of digests is held here. Symlinks are not followed.
	Stat(ctx context.Context, flist, path string) (Entry, error)
	// Cat writes the content of a regular file to w.
	Cat(ctx context.Context, flist, path string, w io.Writer) error
	// Chunk returns the verified content of a chunk of an flist, as a read of a
	// mounted file gets it.
	Chunk(ctx context.Context, flist string, id chunk.ID) ([]byte, error)
}

// Checker compares and checks images.
type Checker interface {
	// Diff calls each for every difference, in order of paths.
	Diff(ctx context.Context, a, b string, each func(Change) error) error
	Inspect(ctx context.Context, flist string) (Inspection, error)
	// Verify reads chunks held here and checks them; it fetches no data.
	Verify(ctx context.Context, req VerifyRequest, progress func(VerifyProgress)) (VerifyResult, error)
}

// Mounter shows images as file systems.
type Mounter interface {
	Mount(ctx context.Context, req MountRequest) (MountInfo, error)
	// Unmount ends the mount at dir. force detaches it even if it is in use.
	Unmount(ctx context.Context, dir string, force bool) error
	Mounts(ctx context.Context) ([]MountInfo, error)
}

// Profiler keeps the order in which workloads first touch chunks.
type Profiler interface {
	// Profile returns what was recorded on this node.
	Profile(ctx context.Context, flist string) (ProfileInfo, error)
	// RecordProfile makes what the mounts of an flist have touched so far its
	// profile.
	RecordProfile(ctx context.Context, flist string) (ProfileInfo, error)
	// DropProfile forgets what was recorded; nothing recorded is no error.
	DropProfile(ctx context.Context, flist string) error
}

// Keeper knows the flists a node holds on purpose.
type Keeper interface {
	FLists(ctx context.Context) ([]PinInfo, error)
	// Remove forgets an flist: it is no longer listed. Its chunks stay, and stay
	// announced, until something else removes them.
	Remove(ctx context.Context, flist string) error
}

// Replicator keeps copies of flists at a site.
type Replicator interface {
	// Replicate wishes that copies of every chunk of an flist be kept at the
	// site, and unless NoWait is set returns when they are there or it is clear
	// that they will not be (Problem). The wish stays in either case, and when
	// ctx ends. progress may be nil.
	Replicate(ctx context.Context, req ReplicateRequest, progress func(Replication)) (Replication, error)
	// Replications returns the wishes this node knows.
	Replications(ctx context.Context) ([]Replication, error)
	// StopReplicating takes a wish back, at the whole site. What is held stays.
	StopReplicating(ctx context.Context, flist string) error
}

// Limiter bounds a node's traffic.
type Limiter interface {
	Limits(ctx context.Context) (Limits, error)
	// SetLimits changes limits until the node ends, and returns all.
	SetLimits(ctx context.Context, req LimitsRequest) (Limits, error)
}

// Reporter tells how the node is.
type Reporter interface {
	Status(ctx context.Context) (Status, error)
	Peers(ctx context.Context) ([]Peer, error)
	ID(ctx context.Context) (Identity, error)
	// Why says who has a chunk, or the chunks of a file, and what those who
	// were asked for them lately answered. It looks providers up.
	Why(ctx context.Context, req WhyRequest) (Why, error)
}
