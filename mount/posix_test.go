package mount_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// notForOverlay are the tests of posixtest that say nothing about a writable
// mount, and why.
var notForOverlay = map[string]string{
	"FcntlFlockLocksFile": "wants two locks of one process to conflict, which POSIX has not; go-fuse leaves it out, too",
	"XAttrLarge":          "measures the upper directory's file system: ext4 takes no xattr of 64 KiB",
}

// TestWritableMountPassesPosixtest runs go-fuse's conformance suite on a
// writable mount, each test in a directory of the image.
func TestWritableMountPassesPosixtest(t *testing.T) {
	needOverlay(t)
	names := slices.Sorted(maps.Keys(posixtest.All))
	m, root := newMemory(), dir(0o755, map[string]*item{})
	for _, name := range names {
		root.items[name] = dir(0o755, nil)
	}
	_, rw := writable(t, "")
	r := start(t, build(t, m, root), m, rw)
	for _, name := range names {
		if notForOverlay[name] != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			at := filepath.Join(r.dir, name)
			posixtest.All[name](t, at)
			if err := os.RemoveAll(at); err != nil {
				t.Error(err)
			}
		})
	}
}
