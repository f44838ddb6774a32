package mount_test

import (
	"fmt"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/mount"
)

// smallFiles builds an image of a directory of small files, and returns the
// inodes in the order of the names.
func smallFiles(t *testing.T, m *memory) (*flist.Image, []flist.Inode) {
	t.Helper()
	items := make(map[string]*item)
	for i := range 100 {
		items[fmt.Sprintf("%03d", i)] = file(0o644, noise(uint64(i), 2000))
	}
	im := build(t, m, dir(0o755, items))
	var inodes []flist.Inode
	for i := range len(items) {
		ino, err := im.Resolve(fmt.Appendf(nil, "/%03d", i))
		if err != nil {
			t.Fatal(err)
		}
		inodes = append(inodes, ino)
	}
	return im, inodes
}

func readWhole(t *testing.T, fs fuse.RawFileSystem, ino flist.Inode) {
	t.Helper()
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: uint64(ino) + 1}, Size: 4096}
	if _, status := fs.Read(nil, in, make([]byte, in.Size)); !status.Ok() {
		t.Fatalf("read of inode %d: %v", ino, status)
	}
}

func TestWhoReadsFilesInTheirOrderHasTheNextChunksUnpacked(t *testing.T) {
	m := newMemory()
	im, inodes := smallFiles(t, m)
	h := &hints{release: make(chan struct{})}
	close(h.release)
	fs, end := mount.NewFileSystemNear(im, m, h)
	seen := make(map[uint32]bool)
	for _, ino := range inodes {
		p, _ := im.PieceAt(ino, 0)
		seen[p.Chunk] = true
		readWhole(t, fs, ino)
	}
	end()
	asked, _ := h.counts()
	if asked == 0 || asked > len(seen) {
		t.Errorf("%d chunks asked for near the %d that were read", asked, len(seen))
	}
	twice := make(map[string]bool)
	for _, id := range h.asked {
		if twice[id.String()] {
			t.Errorf("chunk %s asked for twice", id)
		}
		twice[id.String()] = true
	}
}

func TestTwoReadersByTurnsAreToldApart(t *testing.T) {
	m := newMemory()
	im, inodes := smallFiles(t, m)
	h := &hints{release: make(chan struct{})}
	close(h.release)
	fs, end := mount.NewFileSystemNear(im, m, h)
	for i := range len(inodes) / 2 {
		readWhole(t, fs, inodes[i])
		readWhole(t, fs, inodes[len(inodes)/2+i])
	}
	end()
	if asked, _ := h.counts(); asked == 0 {
		t.Error("nothing was asked for ahead of two readers")
	}
}

func TestNothingIsUnpackedNearReadsThatLieApart(t *testing.T) {
	m := newMemory()
	im, inodes := smallFiles(t, m)
	h := &hints{release: make(chan struct{})}
	fs, end := mount.NewFileSystemNear(im, m, h)
	for i := len(inodes) - 1; i >= 0; i -= 9 { // backwards, and over chunks
		readWhole(t, fs, inodes[i])
	}
	end()
	if asked, _ := h.counts(); asked != 0 {
		t.Errorf("%d chunks asked for", asked)
	}
}

func TestChunksUnpackedAheadAreBoundedAndEndWithTheMount(t *testing.T) {
	m := newMemory()
	im, inodes := smallFiles(t, m)
	h := &hints{release: make(chan struct{})}
	fs, end := mount.NewFileSystemNear(im, m, h)
	for _, ino := range inodes {
		readWhole(t, fs, ino)
	}
	if asked, _ := h.counts(); asked > 4 {
		t.Errorf("%d chunks in flight", asked)
	}
	close(h.release)
	end()
	asked, _ := h.counts()
	readWhole(t, fs, inodes[0])
	readWhole(t, fs, inodes[len(inodes)-1])
	if after, _ := h.counts(); after != asked {
		t.Errorf("%d chunks asked for after the end", after-asked)
	}
}
