package flist

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"iter"
)

// xattrSets is the table of distinct sets of xattrs, numbered from 1.
type xattrSets struct {
	first    []uint32 // set-1 -> first pair; one more at the end
	nameEnd  []uint32 // pair -> end of its name in names, the NUL not counted
	valueEnd []uint32 // pair -> end of its value in values
	names    []byte
	values   []byte
}

func (t *xattrSets) all(set uint32) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		if set == 0 {
			return
		}
		for p := t.first[set-1]; p < t.first[set]; p++ {
			if !yield(t.name(p), t.value(p)) {
				return
			}
		}
	}
}

func (t *xattrSets) get(set uint32, name []byte) ([]byte, bool) {
	if set == 0 {
		return nil, false
	}
	for p := t.first[set-1]; p < t.first[set]; p++ {
		if bytes.Equal(t.name(p), name) {
			return t.value(p), true
		}
	}
	return nil, false
}

func (t *xattrSets) name(p uint32) []byte {
	first := uint32(0)
	if p > 0 {
		first = t.nameEnd[p-1] + 1
	}
	return t.names[first:t.nameEnd[p]:t.nameEnd[p]]
}

func (t *xattrSets) value(p uint32) []byte {
	first := uint32(0)
	if p > 0 {
		first = t.valueEnd[p-1]
	}
	return t.values[first:t.valueEnd[p]:t.valueEnd[p]]
}

// parseXattrs reads the xattrs table: pairs of each set, length of each
// value, names ended by NUL, values.
func parseXattrs(b []byte, c *Counts) (xattrSets, error) {
	var t xattrSets
	sets, pairs := int(c.XattrSets), int(c.Xattrs)
	counts, lengths := u32s(b[:sets*4]), u32s(b[sets*4:(sets+pairs)*4])
	text := b[(sets+pairs)*4:]
	t.first = make([]uint32, sets+1)
	for i := range sets {
		n := counts.at(i)
		if n == 0 || uint64(n) > uint64(pairs)-uint64(t.first[i]) {
			return t, malformed(SectionXattrs, "set %d has %d of %d pairs", i+1, n, pairs)
		}
		t.first[i+1] = t.first[i] + n
	}
	if int(t.first[sets]) != pairs {
		return t, malformed(SectionXattrs, "sets have %d pairs, root block says %d", t.first[sets], pairs)
	}
	t.nameEnd = make([]uint32, 0, pairs)
	next, err := textEnds(SectionXattrs, text, pairs, MaxXattrName, func(end uint32) { t.nameEnd = append(t.nameEnd, end) })
	if err != nil {
		return t, err
	}
	t.names, t.values = text[:next], text[next:]
	t.valueEnd = make([]uint32, pairs)
	end := uint64(0)
	for i := range pairs {
		n := lengths.at(i)
		if end += uint64(n); n > MaxXattrValue || end > uint64(len(t.values)) {
			return t, malformed(SectionXattrs, "value of %d bytes", n)
		}
		t.valueEnd[i] = uint32(end)
	}
	if end != uint64(len(t.values)) {
		return t, malformed(SectionXattrs, "%d bytes after the last value", uint64(len(t.values))-end)
	}
	return t, t.checkSets()
}

// checkSets checks that sets are sorted and distinct.
func (t *xattrSets) checkSets() error {
	seen := map[[sha256.Size]byte]bool{}
	h := sha256.New()
	for set := range uint32(len(t.first) - 1) {
		h.Reset()
		for p := t.first[set]; p < t.first[set+1]; p++ {
			if p > t.first[set] && bytes.Compare(t.name(p-1), t.name(p)) >= 0 {
				return malformed(SectionXattrs, "set %d is not sorted by name", set+1)
			}
			fmt.Fprintf(h, "%q=%q,", t.name(p), t.value(p))
		}
		sum := [sha256.Size]byte(h.Sum(nil))
		if seen[sum] {
			return malformed(SectionXattrs, "set %d stands there twice", set+1)
		}
		seen[sum] = true
	}
	return nil
}

// textEnds finds the ends of n strings, each of 1 to longest bytes and ended
// by a NUL, calls found with each, and returns where the last NUL is behind.
func textEnds(section string, text []byte, n, longest int, found func(end uint32)) (next int, err error) {
	for i := range n {
		l := bytes.IndexByte(text[next:], 0)
		if l <= 0 || l > longest {
			return 0, malformed(section, "string %d is empty, not ended, or longer than %d bytes", i, longest)
		}
		found(uint32(next + l))
		next += l + 1
	}
	return next, nil
}
