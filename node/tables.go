package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

const (
	// savedLeast is the size of the tables, in bytes, from which on they are
	// saved: smaller ones load in some 20 ms.
	savedLeast = 8 << 20
	savedMost  = 1 << 30         // bytes of all files of saved tables
	savePause  = 3 * time.Second // from loading tables to saving them: somebody waits for what they are loaded for
	entryTable = 80              // about the bytes an entry takes in the tables
)

// savedTables keeps the tables of large flists that this node holds as they are
// in memory, from one run of the node to the next, in a file for each. A
// checksum of every block is compared when they are loaded again; tables that are
// not what was written are dropped, and made anew from the chunks.
type savedTables struct {
	dir         string
	least, most int64
	pause       time.Duration
	wished      chan cid.Cid
	log         *slog.Logger
}

func newSavedTables(dir string, log *slog.Logger) *savedTables {
	return &savedTables{dir: dir, least: savedLeast, most: savedMost, pause: savePause, wished: make(chan cid.Cid, maxImages), log: log}
}

func (s *savedTables) path(root cid.Cid) string { return filepath.Join(s.dir, root.String()) }

// load loads an flist from saved tables. Any error says that it is to be loaded
// otherwise.
func (s *savedTables) load(ctx context.Context, src chunk.Source, root cid.Cid) (*flist.Image, error) {
	path := s.path(root)
	im, err := flist.LoadSaved(ctx, src, root, path)
	switch {
	case err == nil:
		now := time.Now()
		if err := os.Chtimes(path, now, now); err != nil { // those not used for long go first
			s.log.Debug("use of saved tables is not noted", "flist", root, "err", err)
		}
	case errors.Is(err, flist.ErrSaved) && !errors.Is(err, fs.ErrNotExist):
		s.log.Warn("saved tables are dropped", "flist", root, "err", err)
		if err := s.drop(root); err != nil {
			s.log.Warn("saved tables are left", "flist", root, "err", err)
		}
	}
	return im, err
}

// wish asks for the tables of an flist to be saved soon, if they take so many
// bytes that it pays.
func (s *savedTables) wish(root cid.Cid, bytes int64) {
	if bytes < s.least {
		return
	}
	select {
	case s.wished <- root:
	default: // the next load asks again
	}
}

func (s *savedTables) drop(root cid.Cid) error {
	if err := os.Remove(s.path(root)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop saved tables: %w", err)
	}
	return nil
}

// wishHeldTables wishes for the tables of the flists that are held and whose
// tables are here, the newest first: a command without a daemon packs, and ends
// before any are saved.
func (n *Node) wishHeldTables(ctx context.Context) {
	held, err := n.FLists(ctx)
	if err != nil {
		n.log.Warn("flists that are held are not known", "err", err)
	}
	for _, h := range held {
		root, err := parseCID(h.CID)
		if err != nil {
			continue
		}
		r, err := flist.LoadRoot(ctx, local{n}, root)
		if err != nil {
			continue
		}
		here, err := n.store.HasMany(ctx, r.MetadataChunks(false))
		if err == nil && !slices.Contains(here, false) {
			n.tables.wish(root, int64(tableBytes(r)))
		}
	}
}

// saveTables saves the tables that are wished until ctx ends.
func (n *Node) saveTables(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case root := <-n.tables.wished:
			if !wait(ctx, n.tables.pause) {
				return
			}
			if err := n.saveTablesOf(ctx, root); err != nil && ctx.Err() == nil {
				n.log.Warn("tables of an flist are not saved for the next start", "flist", root, "err", err)
			}
		}
	}
}

// saveTablesOf saves the tables of an flist, if it is held on purpose and they
// are not saved yet.
func (n *Node) saveTablesOf(ctx context.Context, root cid.Cid) error {
	if _, err := os.Stat(n.tables.path(root)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := n.pinOf(root); err != nil || !n.roomToPrefetch() {
		return nil
	}
	im, err := n.load(ctx, root.String())
	if err != nil {
		return err
	}
	defer im.Close()
	if err := n.tables.save(im, n.tempDir()); err != nil {
		return err
	}
	if _, err := n.pinOf(root); err != nil { // it was removed meanwhile
		return n.tables.drop(root)
	}
	return n.tables.trim()
}

// save writes the tables of im, in temp first. Nothing is synced to the disk:
// what a crash leaves half written is found by its checksums.
func (s *savedTables) save(im *flist.Image, temp string) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(temp, "tables-*")
	if err != nil {
		return err
	}
	if err = errors.Join(im.Save(f), f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path(im.CID()))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// trim removes what was not used for longest until the rest is not too much.
func (s *savedTables) trim() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var files []fs.FileInfo
	sum := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		files = append(files, info)
		sum += info.Size()
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return cmp.Compare(a.ModTime().UnixNano(), b.ModTime().UnixNano()) })
	for _, f := range files {
		if sum <= s.most {
			break
		}
		if err := os.Remove(filepath.Join(s.dir, f.Name())); err != nil {
			return err
		}
		sum -= f.Size()
	}
	return nil
}
