package node

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/node/api"
)

// TestImageLivesWhileItIsUsed closes the images kept by the node, and the
// node's reference to one that is in use.
func TestImageLivesWhileItIsUsed(t *testing.T) {
	n := startNode(t, "a", nil)
	dir, _ := sample(t, 31)
	cid := packed(t, n, dir)
	first, err := n.load(t.Context(), cid)
	must(t, err)
	second, err := n.load(t.Context(), cid)
	must(t, err)
	if maps := mappedTables(t, n.cfg.Data); maps != 1 {
		t.Errorf("two references to an image have %d mappings", maps)
	}
	first.Close()
	n.images.mu.Lock()
	n.images.lru.Purge()
	n.images.unlockAndClose()
	if _, err := second.Resolve([]byte("/etc/hostname")); err != nil {
		t.Error(err)
	}
	second.Close()
	if maps := mappedTables(t, n.cfg.Data); maps != 0 {
		t.Errorf("%d mappings when nobody has the image", maps)
	}
}

// TestManyImagesAtATime loads more images than are kept, again and again, from
// goroutines that give up at times.
func TestManyImagesAtATime(t *testing.T) {
	n := startNode(t, "a", nil)
	var cids []string
	for i := range maxImages + 3 {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/file", []byte{byte(i)}, 0o600))
		cids = append(cids, packed(t, n, dir))
	}
	var users sync.WaitGroup
	for u := range 6 {
		users.Go(func() {
			for i := range 40 {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+u)%5 == 0 {
					go cancel()
				}
				im, err := n.load(ctx, cids[(i*7+u)%len(cids)])
				cancel()
				if err != nil {
					continue
				}
				if ino, err := im.Resolve([]byte("/file")); err != nil || im.Attr(ino).Size != 1 {
					t.Errorf("inode %d, %v", ino, err)
				}
				im.Close()
			}
		})
	}
	users.Wait()
	if maps := mappedTables(t, n.cfg.Data); maps > maxImages {
		t.Errorf("%d images are mapped, %d are kept", maps, maxImages)
	}
}

// TestTablesStayInMemoryWithoutAFile takes the directory of temporary files
// away.
func TestTablesStayInMemoryWithoutAFile(t *testing.T) {
	n := startNode(t, "a", nil)
	dir, files := sample(t, 32)
	cid := packed(t, n, dir)
	must(t, os.RemoveAll(n.tempDir()))
	found := 0
	must(t, n.List(t.Context(), cid, "/", api.ListOptions{Recursive: true}, func(e api.Entry) error {
		if e.Type == api.TypeFile {
			found++
		}
		return nil
	}))
	if found < len(files) || mappedTables(t, n.cfg.Data) != 0 {
		t.Errorf("%d files, want at least %d; %d mappings, want 0", found, len(files), mappedTables(t, n.cfg.Data))
	}
	im, err := n.load(t.Context(), cid)
	must(t, err)
	defer im.Close()
	if im.Mode(flist.RootInode)&flist.ModeType != flist.ModeDir {
		t.Error("the root is no directory")
	}
}
