package flist_test

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

var update = flag.Bool("update", false, "write the worked example into docs/format.md anew")

const (
	formatDoc    = "../docs/format.md"
	exampleBegin = "<!-- example: begin, written by `go test ./flist -run WorkedExample -update` -->\n"
	exampleEnd   = "<!-- example: end -->\n"
)

// TestWorkedExample holds the specification's example bytes to the code.
func TestWorkedExample(t *testing.T) {
	doc, err := os.ReadFile(formatDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), exampleBegin)
	got, after, ok2 := strings.Cut(rest, exampleEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has lost the marks of its example", formatDoc)
	}
	want := example(t)
	if *update {
		if err := os.WriteFile(formatDoc, []byte(before+exampleBegin+want+exampleEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the example in %s is not what the code does (-code +document):\n%s", formatDoc, diff)
	}
}

// example packs the tree that docs/format.md describes and prints its blocks.
func example(t *testing.T) string {
	m := newMemory()
	b, err := flist.NewBuilder(m, flist.BuilderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := script{t: t, b: b, m: m}
	hello := []byte("hello\n")
	at := func(mode uint32) flist.Attr {
		return flist.Attr{Mode: mode, Mtime: flist.Time{Sec: 1_000_000_000, Nsec: 5}}
	}
	s.check(b.Root(flist.Node{Attr: at(flist.ModeDir | 0o755)}))
	s.dir(flist.RootInode)
	s.add("bin", flist.Node{Attr: at(flist.ModeDir | 0o755)})
	greeting := s.add("greeting", flist.Node{Attr: at(flist.ModeRegular | 0o644), Digest: sha256.Sum256(hello), HasDigest: true,
		Extents: []flist.Extent{{Kind: flist.Fresh, Length: uint64(len(hello))}},
		Xattrs:  []flist.Xattr{{Name: []byte("user.lang"), Value: []byte("en")}}})
	s.dir(1)
	s.check(b.Link([]byte("hard"), greeting))
	s.add("soft", flist.Node{Attr: at(flist.ModeSymlink | 0o777), Target: []byte("../greeting")})
	s.chunk(flist.Packed, hello)
	b.NextDir()
	c, root, err := b.Finish(t.Context())
	s.check(err)

	var out strings.Builder
	block := func(title string, id chunk.ID) {
		data, err := m.Get(t.Context(), id)
		s.check(err)
		fmt.Fprintf(&out, "%s, %d bytes:\n\n```\n%s```\n\n", title, len(data), dump(data))
	}
	fmt.Fprintf(&out, "The flist CID is `%s`.\n\n", c)
	id, err := chunk.FromCID(c)
	s.check(err)
	block("Root block", id)
	for _, name := range flist.SectionNamesInOrder() {
		for _, l := range root.Sections[name].Chunks {
			block("`"+name+"`, chunk `"+l.ID().String()+"`", l.ID())
		}
	}
	return out.String()
}

// dump is `hexdump -C` without its last line.
func dump(data []byte) string {
	lines := strings.SplitAfter(hex.Dump(data), "\n")
	return strings.Join(lines, "")
}
