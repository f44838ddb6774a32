package p2p

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
)

func TestMemStoreAgreesWithMapDatastore(t *testing.T) {
	ours, theirs := newMemStore(), ds.NewMapDatastore()
	keys := []string{"/a", "/a/b", "/a/b/c", "/ab", "/a/d", "/x/y/z", "/x"}
	put := func(k string) {
		for _, d := range []ds.Datastore{ours, theirs} {
			if err := d.Put(t.Context(), ds.NewKey(k), []byte(k)); err != nil {
				t.Fatal(err)
			}
		}
	}
	compare := func(when string) {
		t.Helper()
		for _, q := range []dsq.Query{
			{}, {Prefix: "/"}, {Prefix: "/a"}, {Prefix: "a/b"}, {Prefix: "/x/y/"}, {Prefix: "/none"},
			{Prefix: "/a", KeysOnly: true}, {Prefix: "/", Limit: 2, Orders: []dsq.Order{dsq.OrderByKey{}}},
		} {
			if diff := cmp.Diff(entries(t, theirs, q), entries(t, ours, q)); diff != "" {
				t.Errorf("%s, query %s: %s", when, q, diff)
			}
		}
		for _, k := range append(keys, "/q") {
			want, werr := theirs.Get(t.Context(), ds.NewKey(k))
			got, err := ours.Get(t.Context(), ds.NewKey(k))
			if string(got) != string(want) || err != werr {
				t.Errorf("%s: %s = %q, %v; want %q, %v", when, k, got, err, want, werr)
			}
		}
	}
	for _, k := range keys {
		put(k)
	}
	compare("full")
	for _, k := range []string{"/a/b", "/x/y/z", "/nothing/here"} {
		_ = ours.Delete(t.Context(), ds.NewKey(k))
		_ = theirs.Delete(t.Context(), ds.NewKey(k))
	}
	compare("after deleting")
	if len(ours.root.children["x"].children) != 0 {
		t.Error("places that lead nowhere are kept")
	}
}

func entries(t *testing.T, d ds.Datastore, q dsq.Query) (keys []string) {
	t.Helper()
	r, err := d.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	es, err := r.Rest()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		keys = append(keys, e.Key+"="+string(e.Value))
	}
	slices.Sort(keys)
	return keys
}
