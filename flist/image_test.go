package flist_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// sample builds an image with one of everything:
//
//	/            /bin (empty)   /big (two chunks around a hole)   /dev0 (1:3)
//	/etc/a "aaaa" /etc/b "bb" /etc/copy (same as a) /etc/link -> a
//	/etc/hard = /etc/a's inode   /fifo   /sock   /empty   names not in UTF-8
func sample(t testing.TB, m *memory) *flist.Image {
	t.Helper()
	b, err := flist.NewBuilder(m, flist.BuilderOptions{Annotations: map[string]string{"title": "sample"}, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := script{t: t, b: b, m: m}
	s.check(b.Root(flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o755, Mtime: flist.Time{Sec: 100}}}))
	s.dir(flist.RootInode)
	s.add("big", flist.Node{Attr: flist.Attr{Mode: flist.ModeRegular | 0o644, UID: 5, GID: 6}, HasDigest: true, Digest: [32]byte{9}, Extents: []flist.Extent{
		{Kind: flist.Fresh, Stream: flist.Cut, Length: 4000}, {Kind: flist.Hole, Length: 1 << 33}, {Kind: flist.Fresh, Stream: flist.Cut, Length: 3000},
		{Kind: flist.Again, Stream: flist.Cut, Start: 3900, Length: 200},
	}})
	s.chunk(flist.Cut, bytes.Repeat([]byte{1}, 4000))
	s.chunk(flist.Cut, bytes.Repeat([]byte{2}, 3000))
	s.add("bin", flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o1777}})
	s.add("dev0", flist.Node{Attr: flist.Attr{Mode: flist.ModeChar | 0o666, Rdev: unix.Mkdev(1, 300)}})
	s.add("empty", flist.Node{Attr: flist.Attr{Mode: flist.ModeRegular | 0o6755, Mtime: flist.Time{Sec: -5, Nsec: 999_999_999}}, HasDigest: true, Digest: sha256.Sum256(nil)})
	etc := s.add("etc", flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o700}, Xattrs: []flist.Xattr{{Name: []byte("user.z"), Value: []byte("1")}, {Name: []byte("user.a")}}})
	s.add("fifo", flist.Node{Attr: flist.Attr{Mode: flist.ModeFIFO | 0o600}})
	s.add("sock", flist.Node{Attr: flist.Attr{Mode: flist.ModeSocket | 0o600}})
	s.add("\xff\xfe", flist.Node{Attr: flist.Attr{Mode: flist.ModeRegular, Btime: flist.Time{Sec: 1 << 40, Nsec: 7}, HasBtime: true}})
	s.dir(2)
	s.dir(etc)
	a := s.add("a", flist.Node{Attr: flist.Attr{Mode: flist.ModeRegular | 0o644}, HasDigest: true, Digest: sha256.Sum256([]byte("aaaa")), Extents: []flist.Extent{{Kind: flist.Fresh, Length: 4}}})
	s.add("b", flist.Node{Attr: flist.Attr{Mode: flist.ModeRegular | 0o644}, HasDigest: true, Digest: sha256.Sum256([]byte("bb")), Extents: []flist.Extent{{Kind: flist.Fresh, Length: 2}}})
	s.add("copy", flist.Node{Attr: flist.Attr{Mode: flist.ModeRegular | 0o644}, HasDigest: true, Digest: sha256.Sum256([]byte("aaaa")), Extents: []flist.Extent{{Kind: flist.Again, Length: 4}}})
	s.check(b.Link([]byte("hard"), a))
	s.add("link", flist.Node{Attr: flist.Attr{Mode: flist.ModeSymlink | 0o777}, Target: []byte("a")})
	s.chunk(flist.Packed, []byte("aaaabb"))
	if ino, ok := b.NextDir(); ok {
		t.Fatalf("NextDir = %d after the last", ino)
	}
	c, _, err := b.Finish(t.Context())
	s.check(err)
	im, err := flist.Load(t.Context(), m, c)
	s.check(err)
	return im
}

// script drives a Builder and fails the test at the first error.
type script struct {
	t testing.TB
	b *flist.Builder
	m *memory
}

func (s script) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s script) dir(want flist.Inode) {
	s.t.Helper()
	if got, ok := s.b.NextDir(); !ok || got != want {
		s.t.Fatalf("NextDir = %d, %v; want %d", got, ok, want)
	}
}

func (s script) add(name string, n flist.Node) flist.Inode {
	s.t.Helper()
	ino, err := s.b.Add([]byte(name), n)
	s.check(err)
	return ino
}

func (s script) chunk(stream flist.Stream, data []byte) {
	s.t.Helper()
	p := chunk.Pack(data)
	s.check(s.m.Put(s.t.Context(), p))
	s.check(s.b.AddChunk(stream, p.ID, len(data)))
}

func TestImageTellsWhatWasBuilt(t *testing.T) {
	im := sample(t, newMemory())
	etc, err := im.Resolve([]byte("/etc"))
	if err != nil {
		t.Fatal(err)
	}
	attrs := map[string]flist.Attr{
		"/":            {Mode: flist.ModeDir | 0o755, Nlink: 4, Mtime: flist.Time{Sec: 100}},
		"/big":         {Mode: flist.ModeRegular | 0o644, UID: 5, GID: 6, Size: 1<<33 + 7200, Nlink: 1},
		"/bin":         {Mode: flist.ModeDir | 0o1777, Nlink: 2},
		"/dev0":        {Mode: flist.ModeChar | 0o666, Rdev: unix.Mkdev(1, 300), Nlink: 1},
		"/empty":       {Mode: flist.ModeRegular | 0o6755, Nlink: 1, Mtime: flist.Time{Sec: -5, Nsec: 999_999_999}},
		"/etc/a":       {Mode: flist.ModeRegular | 0o644, Size: 4, Nlink: 2},
		"/etc/hard":    {Mode: flist.ModeRegular | 0o644, Size: 4, Nlink: 2},
		"/etc/link":    {Mode: flist.ModeSymlink | 0o777, Size: 1, Nlink: 1},
		"/fifo":        {Mode: flist.ModeFIFO | 0o600, Nlink: 1},
		"/sock":        {Mode: flist.ModeSocket | 0o600, Nlink: 1},
		"/\xff\xfe":    {Mode: flist.ModeRegular, Nlink: 1, Btime: flist.Time{Sec: 1 << 40, Nsec: 7}, HasBtime: true},
		"//etc//./b//": {Mode: flist.ModeRegular | 0o644, Size: 2, Nlink: 1},
	}
	for path, want := range attrs {
		ino, err := im.Resolve([]byte(path))
		if err != nil {
			t.Errorf("Resolve(%q): %v", path, err)
			continue
		}
		if diff := cmp.Diff(want, im.Attr(ino)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", path, diff)
		}
	}
	for path, want := range map[string]error{"/nothing": fs.ErrNotExist, "/etc/": nil, "/empty/x": unix.ENOTDIR} {
		if _, err := im.Resolve([]byte(path)); !errors.Is(err, want) {
			t.Errorf("Resolve(%q) = %v, want %v", path, err, want)
		}
	}
	if got := string(im.Target(etc + 0)); got != "" {
		t.Errorf("a directory has target %q", got)
	}
	var xattrs []string
	for name, value := range im.Xattrs(etc) {
		xattrs = append(xattrs, fmt.Sprintf("%s=%s", name, value))
	}
	if diff := cmp.Diff([]string{"user.a=", "user.z=1"}, xattrs); diff != "" {
		t.Error(diff)
	}
	if v, ok := im.Xattr(etc, []byte("user.z")); !ok || string(v) != "1" {
		t.Errorf("user.z = %q, %v", v, ok)
	}
	if _, ok := im.Xattr(flist.RootInode, []byte("user.z")); ok {
		t.Error("the root has an xattr of /etc")
	}
}

func TestWalkAndPathsAgree(t *testing.T) {
	im := sample(t, newMemory())
	want := strings.Fields("/ /big /bin /dev0 /empty /etc /etc/a /etc/b /etc/copy /etc/hard /etc/link /fifo /sock /\xff\xfe")
	var got []string
	err := im.Walk(func(path []byte, ino flist.Inode) error {
		got = append(got, string(path))
		if first := string(im.Path(ino)); first != string(path) && string(path) != "/etc/hard" {
			t.Errorf("Path(%d) = %q, walked as %q", ino, first, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPieces(t *testing.T) {
	im := sample(t, newMemory())
	pieces := func(path string, off uint64) (got []flist.Piece) {
		ino, err := im.Resolve([]byte(path))
		if err != nil {
			t.Fatal(err)
		}
		for {
			p, ok := im.PieceAt(ino, off)
			if !ok {
				return got
			}
			got = append(got, p)
			off += p.Length
		}
	}
	const hole = 1 << 33
	for _, c := range []struct {
		path string
		off  uint64
		want []flist.Piece
	}{
		{"/etc/a", 0, []flist.Piece{{Length: 4, Chunk: 0}}},
		{"/etc/b", 1, []flist.Piece{{Offset: 1, Length: 1, Chunk: 0, ChunkOffset: 5}}},
		{"/etc/copy", 3, []flist.Piece{{Offset: 3, Length: 1, Chunk: 0, ChunkOffset: 3}}},
		{"/empty", 0, nil},
		{"/etc/a", 4, nil},
		{"/big", 3999, []flist.Piece{
			{Offset: 3999, Length: 1, Chunk: 1, ChunkOffset: 3999},
			{Offset: 4000, Length: hole, Hole: true},
			{Offset: 4000 + hole, Length: 3000, Chunk: 2},
			{Offset: 7000 + hole, Length: 100, Chunk: 1, ChunkOffset: 3900},
			{Offset: 7100 + hole, Length: 100, Chunk: 2},
		}},
	} {
		if diff := cmp.Diff(c.want, pieces(c.path, c.off)); diff != "" {
			t.Errorf("%s from %d (-want +got):\n%s", c.path, c.off, diff)
		}
	}
	if id, size := im.Chunk(0); size != 6 || id != chunk.Sum([]byte("aaaabb")) {
		t.Errorf("chunk 0 = %s, %d bytes", id, size)
	}
}

func TestDigests(t *testing.T) {
	m := newMemory()
	im := sample(t, m)
	d, err := im.Digests(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][32]byte{"/etc/a": sha256.Sum256([]byte("aaaa")), "/etc/copy": sha256.Sum256([]byte("aaaa")), "/big": {9}, "/empty": sha256.Sum256(nil)} {
		ino, _ := im.Resolve([]byte(path))
		if got, ok := d.Of(ino); !ok || got != want {
			t.Errorf("digest of %s = %x, %v", path, got, ok)
		}
	}
	for _, path := range []string{"/", "/\xff\xfe", "/etc/link"} {
		ino, _ := im.Resolve([]byte(path))
		if got, ok := d.Of(ino); ok {
			t.Errorf("digest of %q = %x, none was recorded", path, got)
		}
	}
}

func TestFileRoundTrip(t *testing.T) {
	m := newMemory()
	im := sample(t, m)
	for _, opts := range []flist.FileOptions{{}, {Digests: true}, {Digests: true, Data: true}} {
		var file bytes.Buffer
		if err := flist.WriteFile(t.Context(), &file, m, im, opts); err != nil {
			t.Fatal(err)
		}
		to := newMemory()
		c, err := flist.ReadFile(t.Context(), bytes.NewReader(file.Bytes()), to)
		if err != nil || !c.Equals(im.CID()) {
			t.Fatalf("ReadFile = %s, %v; want %s", c, err, im.CID())
		}
		if _, err := flist.Load(t.Context(), to, c); err != nil {
			t.Error(err)
		}
		_, err = im.Digests(t.Context(), to)
		if opts.Digests != (err == nil) {
			t.Errorf("%+v: Digests: %v", opts, err)
		}
		id, _ := im.Chunk(0)
		_, err = to.Get(t.Context(), id)
		if opts.Data != (err == nil) {
			t.Errorf("%+v: data chunk: %v", opts, err)
		}
		for n := range file.Len() - 1 {
			if _, err := flist.ReadFile(t.Context(), bytes.NewReader(file.Bytes()[:n]), newMemory()); err == nil {
				t.Fatalf("a file cut to %d of %d bytes was taken", n, file.Len())
			}
		}
	}
}

func TestReadFileRefuses(t *testing.T) {
	_, err := flist.ReadFile(t.Context(), strings.NewReader("#!/bin/sh\necho hello, this is a script\n"), newMemory())
	if !errors.Is(err, flist.ErrNotFlist) {
		t.Errorf("a script: %v, want ErrNotFlist", err)
	}
	_, err = flist.ReadFile(t.Context(), strings.NewReader(""), newMemory())
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestLoadRefusesOtherThings(t *testing.T) {
	m := newMemory()
	im := sample(t, m)
	raw := chunk.Pack([]byte("no flist"))
	if err := m.Put(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	asFlist := cid.NewCidV1(cid.DagCBOR, raw.ID.Multihash())
	if _, err := flist.Load(t.Context(), m, asFlist); !errors.Is(err, flist.ErrNotFlist) {
		t.Errorf("a chunk with an flist's codec: %v", err)
	}
	id, _ := chunk.FromCID(im.CID())
	for _, c := range []cid.Cid{id.CID(), cid.Undef} {
		if _, err := flist.Load(t.Context(), m, c); !errors.Is(err, flist.ErrNotFlist) {
			t.Errorf("%s: %v", c, err)
		}
	}
	if _, err := flist.ParseCID("hello"); err == nil {
		t.Error("ParseCID took a word")
	}
	if c, err := flist.ParseCID(im.CID().String()); err != nil || !c.Equals(im.CID()) {
		t.Errorf("ParseCID = %s, %v", c, err)
	}
	nobody := cid.NewCidV1(cid.DagCBOR, chunk.Sum([]byte("nobody")).Multihash())
	if _, err := flist.Load(t.Context(), m, nobody); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a CID nobody has: %v", err)
	}
}

func TestDiff(t *testing.T) {
	m := newMemory()
	a := sample(t, m)
	build := func(entries func(s script)) *flist.Image {
		b, err := flist.NewBuilder(m, flist.BuilderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s := script{t: t, b: b, m: m}
		s.check(b.Root(flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o755, Mtime: flist.Time{Sec: 100}}}))
		s.dir(flist.RootInode)
		entries(s)
		for {
			if _, ok := b.NextDir(); !ok {
				break
			}
		}
		c, _, err := b.Finish(t.Context())
		s.check(err)
		im, err := flist.Load(t.Context(), m, c)
		s.check(err)
		return im
	}
	b := build(func(s script) {
		s.add("bin", flist.Node{Attr: flist.Attr{Mode: flist.ModeDir | 0o755, UID: 1}, Xattrs: []flist.Xattr{{Name: []byte("user.x")}}})
		s.add("empty", flist.Node{Attr: flist.Attr{Mode: flist.ModeRegular | 0o6755, Mtime: flist.Time{Sec: -5, Nsec: 999_999_999}}, HasDigest: true, Digest: [32]byte{3}, Extents: []flist.Extent{{Kind: flist.Hole, Length: 3}}})
		s.add("fifo", flist.Node{Attr: flist.Attr{Mode: flist.ModeSymlink | 0o777}, Target: []byte("x")})
		s.add("new", flist.Node{Attr: flist.Attr{Mode: flist.ModeDir}})
	})
	da, err := a.Digests(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	db, err := b.Digests(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for c := range flist.Diff(a, b, da, db) {
		got = append(got, fmt.Sprintf("%c %s %v", "+-~"[c.Kind], c.Path, c.What))
	}
	want := []string{"- /big []", "~ /bin [mode owner xattrs]", "- /dev0 []", "~ /empty [size content]",
		"- /etc []", "- /etc/a []", "- /etc/b []", "- /etc/copy []", "- /etc/hard []", "- /etc/link []",
		"~ /fifo [type mode]", "+ /new []", "- /sock []", "- /\xff\xfe []"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for c := range flist.Diff(a, a, da, da) {
		t.Errorf("an image differs from itself: %s %v", c.Path, c.What)
	}
}
