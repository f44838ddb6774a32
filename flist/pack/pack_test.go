package pack_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/pack"
)

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, data, 0o644))
}

func packed(t *testing.T, dir string, opts pack.Options) (pack.Result, *memory) {
	t.Helper()
	m := newMemory()
	res, err := pack.Dir(t.Context(), dir, m, opts)
	if err != nil {
		t.Fatal(err)
	}
	return res, m
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices, owners and trusted xattrs")
	}
}

// plainTree makes what anybody may make.
func plainTree(t *testing.T, dir string) {
	t.Helper()
	must(t, os.Chmod(dir, 0o755))
	write(t, dir+"/empty", nil)
	write(t, dir+"/etc/hello", []byte("hello\n"))
	write(t, dir+"/etc/hello again", []byte("hello\n"))
	write(t, dir+"/not\xff\xfeutf8\n\x01", []byte("x"))
	write(t, dir+"/"+strings.Repeat("n", 255), []byte("long"))
	must(t, os.Mkdir(dir+"/empty dir", 0o700))
	for _, n := range []int{pack.SmallFile - 1, pack.SmallFile, pack.CutMin, pack.CutMax, pack.CutMax + 1, 3 << 20} {
		write(t, fmt.Sprintf("%s/sizes/%d", dir, n), noise(uint64(n), n))
	}
	write(t, dir+"/sizes/again", append(noise(3<<20, 3<<20), 1))
	for i := range 300 {
		write(t, fmt.Sprintf("%s/many/%03d", dir, i), noise(uint64(i), i*37))
	}
	must(t, os.Symlink("etc/hello", dir+"/link"))
	must(t, os.Symlink("nowhere\xff", dir+"/dangling"))
	must(t, os.Link(dir+"/etc/hello", dir+"/etc/hard"))
	must(t, os.Link(dir+"/sizes/3145728", dir+"/hard large"))
	must(t, os.Link(dir+"/link", dir+"/hard link of a symlink"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	must(t, unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o755, 0))
	must(t, os.Chmod(dir+"/etc/hello again", 0o751|os.ModeSetuid|os.ModeSetgid|os.ModeSticky))
	for name, sec := range map[string]int64{"/empty": -1 << 31, "/etc": -1, "/sizes": 1<<33 + 5, "/fifo": 1<<33 + 77} {
		ts := []unix.Timespec{{Sec: 1}, {Sec: sec, Nsec: 123456789}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+name, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// sparseTree makes files with holes.
func sparseTree(t *testing.T, dir string, largest int64) {
	t.Helper()
	for name, f := range map[string]struct {
		size int64
		at   []int64
	}{
		"begin":     {1 << 20, []int64{900_000}},
		"middle":    {1 << 20, []int64{0, 1<<20 - 4096}},
		"end":       {1 << 20, []int64{0}},
		"several":   {3 << 20, []int64{1 << 20, 2 << 20}},
		"only hole": {1 << 20, nil},
		"small":     {40_000, []int64{0, 30_000}},
		"largest":   {largest + 12345, []int64{1 << 20, largest + 4096}},
	} {
		path := dir + "/sparse/" + name
		write(t, path, nil)
		must(t, os.Truncate(path, f.size))
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		for _, at := range f.at {
			_, err = file.WriteAt(noise(uint64(at), 4096), at)
			must(t, err)
		}
		must(t, file.Close())
	}
}

// deepTree makes a path of more than 4096 bytes.
func deepTree(t *testing.T, dir string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	name := strings.Repeat("d", 240)
	for range 20 {
		must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	file, err := unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	_, err = unix.Write(file, []byte("deep"))
	must(t, err)
	unix.Close(file)
	unix.Close(fd)
}

// TestManyDeepDirectories has more directories side by side than the walk
// keeps open, so that it must open each by a path longer than the kernel takes.
func TestManyDeepDirectories(t *testing.T) {
	dir := t.TempDir()
	const n = 40
	for i := range n {
		sub := fmt.Sprintf("%s/%02d", dir, i)
		must(t, os.Mkdir(sub, 0o755))
		deepTree(t, sub)
	}
	if got, want := len(paths(t, dir, pack.Options{})), 1+n*(1+20+1); got != want {
		t.Errorf("%d paths, want %d", got, want)
	}
}

// rootTree makes what only root may make.
func rootTree(t *testing.T, dir string) {
	t.Helper()
	must(t, unix.Mknod(dir+"/char", unix.S_IFCHR|0o620, int(unix.Mkdev(5, 1))))
	must(t, unix.Mknod(dir+"/block", unix.S_IFBLK|0o660, int(unix.Mkdev(259, 300_000))))
	must(t, unix.Mknod(dir+"/etc/whiteout", unix.S_IFCHR, 0))
	must(t, os.Link(dir+"/block", dir+"/block again"))
	must(t, os.Lchown(dir+"/link", 12, 34))
	must(t, os.Lchown(dir+"/etc", 70_000, 4_000_000_000))
	capNetRaw := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 9, 0, 0, 0,
		4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}
	for _, x := range []struct {
		path, name string
		value      []byte
	}{
		{"/etc/hello", "security.capability", capNetRaw},
		{"/etc/hello", "user.many", bytes.Repeat([]byte("v"), 1000)},
		{"/etc/hello", "user.nothing", nil},
		{"/etc", "trusted.overlay.opaque", []byte("y")},
		{"/etc", "system.posix_acl_default", acl},
		{"/empty", "system.posix_acl_access", acl},
		{"/link", "trusted.of.link", []byte("l")},
		{"/char", "trusted.of.device", []byte("c")},
		{"/socket", "trusted.of.socket", []byte("s")},
		{"", "user.of.root", []byte("r")},
	} {
		if err := unix.Lsetxattr(dir+x.path, x.name, x.value, 0); err != nil {
			t.Errorf("set %s of %s: %v", x.name, x.path, err)
		}
	}
}

func TestEverythingSurvives(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	plainTree(t, dir)
	sparseTree(t, dir, 1<<32)
	deepTree(t, dir)
	rootTree(t, dir)
	want := scan(t, dir)
	res, m := packed(t, dir, pack.Options{Annotations: map[string]string{"name": "everything"}})
	im, err := flist.Load(t.Context(), m, res.CID)
	must(t, err)
	if diff := cmp.Diff(want, describe(t, m, im)); diff != "" {
		t.Errorf("the image differs from its source (-source +image):\n%s", diff)
	}
	if int(res.Entries) != len(want)-1 || im.Root().Annotations["name"] != "everything" {
		t.Errorf("%d entries, want %d; annotations %v", res.Entries, len(want)-1, im.Root().Annotations)
	}
	if diff := cmp.Diff(want, scan(t, dir)); diff != "" {
		t.Errorf("packing changed the source:\n%s", diff)
	}
}

func TestSameTreeGivesSameCID(t *testing.T) {
	dir := t.TempDir()
	plainTree(t, dir)
	sparseTree(t, dir, 1<<26)
	var first pack.Result
	for i, opts := range []pack.Options{
		{Workers: 1}, {Workers: 2}, {Workers: 7}, {Workers: 7}, {Workers: 3, MemoryBytes: 1},
	} {
		res, _ := packed(t, dir, opts)
		if i == 0 {
			first = res
		}
		if res.CID != first.CID || res.Bytes != first.Bytes || res.Chunks != first.Chunks {
			t.Errorf("with %+v: %+v, want %+v", opts, res, first)
		}
	}
}

func TestCopiesAgreeWhenReproducible(t *testing.T) {
	epoch := int64(1_000_000)
	opts := pack.Options{Reproducible: true, SourceDateEpoch: &epoch}
	names := []string{"a", "b/c", "b/d", "e", "zz/y/x"}
	tree := func(names []string) string {
		dir := t.TempDir()
		must(t, os.Chmod(dir, 0o755))
		for _, n := range names {
			write(t, dir+"/"+n, []byte(n))
		}
		old := []unix.Timespec{{}, {Sec: 999_999, Nsec: 5}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/e", old, 0))
		return dir
	}
	one := tree(names)
	slices.Reverse(names)
	two := tree(names)
	a, m := packed(t, one, opts)
	b, _ := packed(t, two, opts)
	if a.CID != b.CID {
		t.Errorf("two copies: %s and %s", a.CID, b.CID)
	}
	im, err := flist.Load(t.Context(), m, a.CID)
	must(t, err)
	for path, want := range map[string]flist.Time{"/a": {Sec: epoch}, "/e": {Sec: 999_999, Nsec: 5}, "/b": {Sec: epoch}} {
		ino, err := im.Resolve([]byte(path))
		must(t, err)
		if at := im.Attr(ino); at.Mtime != want || at.HasBtime {
			t.Errorf("%s: mtime %v, birth time %v; want %v and none", path, at.Mtime, at.HasBtime, want)
		}
	}
	c, _ := packed(t, two, pack.Options{})
	if c.CID == a.CID {
		t.Error("times make no difference without the options")
	}
}

func TestDirectoryOfManyEntries(t *testing.T) {
	dir := t.TempDir()
	const n = 20_000
	for i := range n {
		must(t, unix.Mknod(fmt.Sprintf("%s/%d", dir, i), unix.S_IFREG|0o644, 0))
	}
	res, m := packed(t, dir, pack.Options{})
	im, err := flist.Load(t.Context(), m, res.CID)
	must(t, err)
	if first, end := im.Entries(flist.RootInode); end-first != n || res.Files != n {
		t.Errorf("%d entries, %d files; want %d", end-first, res.Files, n)
	}
}

// TestSmallChangeGivesFewNewChunks holds the point of cutting by content.
func TestSmallChangeGivesFewNewChunks(t *testing.T) {
	dir := t.TempDir()
	for i := range 2000 {
		write(t, fmt.Sprintf("%s/%02d/%04d", dir, i/100, i), noise(uint64(i), 500+i%3000))
	}
	write(t, dir+"/large", noise(9999, 8<<20))
	_, before := packed(t, dir, pack.Options{})
	write(t, dir+"/07/0700 new", []byte("a file more"))
	large := noise(9999, 8<<20)
	write(t, dir+"/large", slices.Concat(large[:4<<20], []byte("inserted"), large[4<<20:]))
	res, after := packed(t, dir, pack.Options{})
	fresh := 0
	for _, id := range dataChunks(t, after, res) {
		if _, ok := before.chunks[id]; !ok {
			fresh++
		}
	}
	if fresh == 0 || fresh > 8 {
		t.Errorf("%d of %d chunks are new after a small change", fresh, res.Chunks)
	}
}

func TestEqualContentIsStoredOnce(t *testing.T) {
	dir := t.TempDir()
	for i := range 10 {
		write(t, fmt.Sprintf("%s/small%d", dir, i), noise(1, 10_000))
		write(t, fmt.Sprintf("%s/large%d", dir, i), noise(2, 1<<20))
	}
	res, _ := packed(t, dir, pack.Options{})
	if want := int64(10_000 + 1<<20); res.DataBytes != want {
		t.Errorf("%d bytes laid down, want %d", res.DataBytes, want)
	}
}

// TestCutsStayTheSame fails when a change of this package or of a library
// would give existing trees new CIDs.
func TestCutsStayTheSame(t *testing.T) {
	const want = "bafkreicb63kkdvsckavhatpjddajbnpbrmwiac5s3cbtco4xx2ieawathq"
	dir := t.TempDir()
	for i := range 500 {
		write(t, fmt.Sprintf("%s/%02d/%03d", dir, i/40, i), noise(uint64(i), i*i%5000))
	}
	write(t, dir+"/large", noise(1, 5<<20))
	res, m := packed(t, dir, pack.Options{})
	var all []byte
	for _, id := range dataChunks(t, m, res) {
		all = append(all, id[:]...)
	}
	if got := chunk.Sum(all).String(); got != want {
		t.Errorf("the names of the %d chunks hash to %s, want %s", res.Chunks, got, want)
	}
}
