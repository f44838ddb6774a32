package sampletree_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/flistnode/flistnode/testnet/sampletree"
	"golang.org/x/sys/unix"
)

func TestMakeBuildsOneOfEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sample")
	skipped, err := sampletree.Make(dir, sampletree.Options{Entries: 10, Huge: true})
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 && len(skipped) == 0 {
		t.Error("without root nothing was said to be left out")
	}
	for _, s := range skipped {
		t.Log("left out:", s)
	}
	for name, typ := range map[string]uint32{
		"small/empty": unix.S_IFREG, "dirs/empty": unix.S_IFDIR, "links/self": unix.S_IFLNK,
		"special/fifo": unix.S_IFIFO, "special/socket": unix.S_IFSOCK, "many/000009": unix.S_IFREG,
	} {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil || st.Mode&unix.S_IFMT != typ {
			t.Errorf("%s: type %o, %v; want %o", name, st.Mode&unix.S_IFMT, err, typ)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(dir, "sparse/huge"), &st); err != nil || st.Size <= 4<<30 || st.Blocks*512 > 10<<20 {
		t.Errorf("huge: %d bytes in %d blocks, %v", st.Size, st.Blocks, err)
	}
}
