package unpack

import "testing"

func TestPackCacheKeepsTheLastAndNoMore(t *testing.T) {
	c := newPackCache()
	for i := range uint32(3 * cachedPacks) {
		c.add(i, []byte{byte(i)})
		c.add(i, []byte{byte(i)}) // takes no second place
	}
	if len(c.data) != cachedPacks {
		t.Errorf("%d packs kept, want %d", len(c.data), cachedPacks)
	}
	for i := range uint32(3 * cachedPacks) {
		data := c.get(i)
		if kept := i >= 2*cachedPacks; kept != (data != nil) || kept && data[0] != byte(i) {
			t.Fatalf("pack %d: %v", i, data)
		}
	}
}
