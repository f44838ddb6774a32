package mount_test

import (
	"path/filepath"
	"testing"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/pack"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/sampletree"
)

func TestMountedTreeIsThePackedOne(t *testing.T) {
	needFUSE(t)
	source := filepath.Join(t.TempDir(), "source")
	skipped, err := sampletree.Make(source, sampletree.Options{Entries: 500})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range skipped {
		t.Log("not in the sample:", s)
	}
	m := newMemory()
	res, err := pack.Dir(t.Context(), source, m, pack.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	im, err := flist.Load(t.Context(), m, res.CID)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, im, m)
	c, err := testnet.CompareTrees(t.Context(), source, r.dir, testnet.CompareOptions{BirthTime: true, Holes: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Differences {
		t.Errorf("source and mount differ: %s", d)
	}
	if c.Entries < 500 || c.Bytes < 4<<20 {
		t.Errorf("only %d entries and %d bytes were compared", c.Entries, c.Bytes)
	}
}
