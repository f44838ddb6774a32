package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
)

// DemoOptions says what a demo shows.
type DemoOptions struct {
	Source   string // the directory to pack; a usual one of at least 100 MB if empty
	Nodes    int    // at least 3
	Binary   string // the flistnode executable
	Progress func(step string)
}

// DemoResult is what a demo measured. Times are in seconds, sizes in bytes.
type DemoResult struct {
	Source        string  `json:"source"`
	Nodes         int     `json:"nodes"`
	CID           string  `json:"cid"`
	Entries       uint64  `json:"entries"`
	Files         uint64  `json:"files"`
	Bytes         uint64  `json:"bytes"`          // content of the directory
	StoredBytes   uint64  `json:"stored_bytes"`   // of the chunks, compressed
	FlistBytes    uint64  `json:"flist_bytes"`    // the .flist file a mount needs
	Chunks        uint64  `json:"chunks"`         // of data
	PackSeconds   float64 `json:"pack_seconds"`   //
	MountSeconds  float64 `json:"mount_seconds"`  // from the CID alone to a mounted directory
	ListSeconds   float64 `json:"list_seconds"`   // first listing of the root
	MountMoved    uint64  `json:"mount_moved"`    // bytes received for both
	ReadSeconds   float64 `json:"read_seconds"`   // reading and comparing everything
	MovedBytes    uint64  `json:"moved_bytes"`    // received in all
	FetchedChunks uint64  `json:"fetched_chunks"` // by the mounting node
	Peers         int     `json:"peers"`          // of the mounting node
	Compared      int64   `json:"compared"`       // names compared
	Differences   int64   `json:"differences"`    // found
	First         []Difference
}

// cleanupTimeout bounds the tidying up after a demo, also after ctrl-C.
const cleanupTimeout = time.Minute

// Demo does the main job before one's eyes: it starts nodes in a line, packs a
// directory on the first, mounts it by CID on the last, which knows only its
// neighbour, and compares the mount with the source. It takes everything down
// again, also when ctx ends. A difference found is no error; the result
// says so.
func Demo(ctx context.Context, opts DemoOptions) (res DemoResult, err error) {
	if opts.Source == "" {
		if opts.Source, err = UsualDir(ctx); err != nil {
			return res, err
		}
	}
	if opts.Source, err = filepath.Abs(opts.Source); err != nil {
		return res, fmt.Errorf("testnet: %w", err)
	}
	dir, err := os.MkdirTemp("", "flistnode-demo-")
	if err != nil {
		return res, fmt.Errorf("testnet: %w", err)
	}
	network := New(Config{Binary: opts.Binary, Dir: dir})
	defer func() {
		opts.Progress("stopping the nodes")
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, network.Stop(stopCtx), removeAll(dir))
	}()
	opts.Progress(fmt.Sprintf("starting %d nodes in a line, each knowing only the one before it", opts.Nodes))
	nodes, err := network.Line(ctx, opts.Nodes)
	if err != nil {
		return res, err
	}
	for i, n := range nodes {
		if err := n.WaitPeers(ctx, min(i+1, 2, opts.Nodes-1)); err != nil {
			return res, err
		}
	}
	res = DemoResult{Source: opts.Source, Nodes: opts.Nodes}
	if err := res.pack(ctx, nodes[0], opts.Progress); err != nil {
		return res, err
	}
	target := filepath.Join(dir, "mount")
	if err := os.Mkdir(target, 0o700); err != nil {
		return res, fmt.Errorf("testnet: %w", err)
	}
	return res, res.mountAndCompare(ctx, nodes[len(nodes)-1], target, opts.Progress)
}

// pack packs the source on n.
func (r *DemoResult) pack(ctx context.Context, n *Node, progress func(string)) error {
	progress(fmt.Sprintf("packing %s on node %s", r.Source, n.Name))
	packed, err := n.Pack(ctx, api.PackRequest{Dir: r.Source}, nil)
	if err != nil {
		return err
	}
	r.CID, r.PackSeconds = packed.CID, packed.Seconds
	r.Entries, r.Files, r.Bytes = packed.Entries, packed.Files, packed.Bytes
	r.StoredBytes, r.Chunks = packed.StoredBytes, packed.Chunks
	var file bytes.Buffer
	if err := n.Export(ctx, r.CID, false, false, &file); err != nil {
		return err
	}
	r.FlistBytes = uint64(file.Len())
	return nil
}

// mountAndCompare mounts the image on n by its CID, reads all of it, and
// unmounts it.
func (r *DemoResult) mountAndCompare(ctx context.Context, n *Node, target string, progress func(string)) (err error) {
	progress(fmt.Sprintf("mounting %s on node %s", r.CID, n.Name))
	before, err := n.Status(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := n.Mount(ctx, api.MountRequest{FList: r.CID, Dir: target}); err != nil {
		return err
	}
	r.MountSeconds = time.Since(began).Seconds()
	defer func() {
		unmountCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, n.Unmount(unmountCtx, target, true))
	}()
	began = time.Now()
	if _, err := os.ReadDir(target); err != nil {
		return fmt.Errorf("testnet: list the mount: %w", err)
	}
	r.ListSeconds = time.Since(began).Seconds()
	mounted, err := n.Status(ctx)
	if err != nil {
		return err
	}
	r.MountMoved = mounted.Net.BytesReceived - before.Net.BytesReceived

	progress("comparing the mount with " + r.Source + ", every attribute and every byte")
	began = time.Now()
	cmp, err := CompareTrees(ctx, r.Source, target, CompareOptions{BirthTime: true, NoDirNlink: true, LinksInside: true, SkipHoles: true})
	if err != nil {
		return err
	}
	r.ReadSeconds = time.Since(began).Seconds()
	r.Compared, r.Differences, r.First = cmp.Entries, cmp.Total, cmp.Differences
	after, err := n.Status(ctx)
	if err != nil {
		return err
	}
	r.MovedBytes = after.Net.BytesReceived - before.Net.BytesReceived
	r.FetchedChunks = after.Net.ChunksFetched - before.Net.ChunksFetched
	r.Peers = after.Peers
	return nil
}

// removeAll removes dir unless something is still mounted in it, which must
// not be emptied by mistake.
func removeAll(dir string) error {
	target := filepath.Join(dir, "mount")
	var at, above unix.Stat_t
	if unix.Lstat(target, &at) == nil && unix.Lstat(dir, &above) == nil && at.Dev != above.Dev {
		return fmt.Errorf("testnet: %s is still mounted; unmount it and remove %s", target, dir)
	}
	return os.RemoveAll(dir)
}

// UsualDir returns the smallest of some directories nearly every machine has
// that holds at least 100 MB.
func UsualDir(ctx context.Context) (string, error) {
	const enough, most = 100e6, 4e9
	best, bestSize := "", int64(most)
	for _, dir := range []string{"/usr/share", "/usr/lib", "/usr/bin", "/usr/local"} {
		size, err := dirSize(ctx, dir, bestSize)
		if err != nil {
			return "", err
		}
		if size >= enough && size < bestSize {
			best, bestSize = dir, size
		}
	}
	if best == "" {
		return "", errors.New("testnet: no usual directory of 100 MB to 4 GB is here: name one")
	}
	return best, nil
}

// dirSize sums the file sizes below dir, and stops beyond most. A directory
// with something unreadable counts as empty: it is no good to show.
func dirSize(ctx context.Context, dir string, most int64) (int64, error) {
	size := int64(0)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return fs.ErrPermission
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if err != nil || unix.Access(path, unix.R_OK) != nil {
			return fs.ErrPermission
		}
		if size += info.Size(); size > most {
			return io.EOF
		}
		return nil
	})
	if errors.Is(err, fs.ErrPermission) {
		return 0, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return size, nil
}
