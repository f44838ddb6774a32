package chunkstore

import (
	"fmt"
	"testing"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	dstest "github.com/ipfs/go-datastore/test"

	"github.com/google/go-cmp/cmp"
)

func TestDatastoreConforms(t *testing.T) {
	t.Parallel() // it takes by far the longest
	s := openT(t, t.TempDir(), Options{})
	dstest.SubtestAll(t, s.Datastore("/dht"))
}

func TestDatastoresKeepApart(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	a, b := s.Datastore("dht"), s.Datastore("/dht2/")
	ctx := t.Context()
	for i, d := range []*Datastore{a, b} {
		if err := d.Put(ctx, ds.NewKey("k"), fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range []*Datastore{a, b} {
		res, err := d.Query(ctx, query.Query{})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := res.Rest()
		if err != nil {
			t.Fatal(err)
		}
		want := []query.Entry{{Key: "/k", Value: fmt.Appendf(nil, "%d", i), Size: 1}}
		if diff := cmp.Diff(want, entries); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDatastoreQueryGoesOverPages(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	d := s.Datastore("/dht")
	b, err := d.Batch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 3*pageEntries + 1
	for i := range n {
		for _, top := range []string{"/a", "/b", "/ab"} {
			if err := b.Put(t.Context(), ds.NewKey(fmt.Sprintf("%s/%05d", top, i)), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		q           query.Query
		count       int
		first, last string
	}{
		{query.Query{Prefix: "/a", KeysOnly: true}, n, "/a/00000", fmt.Sprintf("/a/%05d", n-1)},
		{query.Query{Prefix: "b/"}, n, "/b/00000", fmt.Sprintf("/b/%05d", n-1)},
		{query.Query{Prefix: "/ab", Offset: 300, Limit: 2}, 2, "/ab/00300", "/ab/00301"},
		{query.Query{Prefix: "/ab", Orders: []query.Order{query.OrderByKeyDescending{}}, Limit: 3}, 3, fmt.Sprintf("/ab/%05d", n-1), fmt.Sprintf("/ab/%05d", n-3)},
		{query.Query{}, 3 * n, "/a/00000", fmt.Sprintf("/b/%05d", n-1)},
	} {
		res, err := d.Query(t.Context(), tc.q)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := res.Rest()
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != tc.count || entries[0].Key != tc.first || entries[len(entries)-1].Key != tc.last {
			t.Errorf("%v: %d entries", tc.q, len(entries))
		}
	}
}
