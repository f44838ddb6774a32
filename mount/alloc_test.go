package mount_test

import (
	"fmt"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/mount"
)

// requests returns what the kernel asks most, against a directory of 10,000
// files, without the kernel.
func requests(t testing.TB) map[string]func() fuse.Status {
	items := make(map[string]*item)
	for i := range 10_000 {
		f := file(0o644, []byte(fmt.Sprint("content ", i)))
		f.Xattrs = []flist.Xattr{{Name: []byte("user.a"), Value: []byte("b")}}
		items[fmt.Sprintf("a file with a name of usual length %05d", i)] = f
	}
	m := newMemory()
	fs := mount.NewFileSystem(build(t, m, dir(0o755, items)), m)
	root, leaf := fuse.InHeader{NodeId: 1}, fuse.InHeader{NodeId: 5001}
	buf, list := make([]byte, 4096), fuse.NewDirEntryList(make([]byte, 4096), 0)
	empty := *list
	name := fmt.Sprintf("a file with a name of usual length %05d", 7777)
	var entry fuse.EntryOut
	var attr fuse.AttrOut
	var stx fuse.StatxOut
	getattr, statx, read := &fuse.GetAttrIn{InHeader: leaf}, &fuse.StatxIn{InHeader: leaf}, &fuse.ReadIn{InHeader: root, Offset: 3000}
	return map[string]func() fuse.Status{
		"Lookup":         func() fuse.Status { return fs.Lookup(nil, &root, name, &entry) },
		"Lookup nothing": func() fuse.Status { return fs.Lookup(nil, &root, "nothing", &entry) },
		"GetAttr":        func() fuse.Status { return fs.GetAttr(nil, getattr, &attr) },
		"Statx":          func() fuse.Status { return fs.Statx(nil, statx, &stx) },
		"GetXAttr": func() fuse.Status {
			_, status := fs.GetXAttr(nil, &leaf, "user.a", buf)
			return status
		},
		"ListXAttr": func() fuse.Status {
			_, status := fs.ListXAttr(nil, &leaf, buf)
			return status
		},
		"ReadDirPlus": func() fuse.Status {
			*list = empty
			return fs.ReadDirPlus(nil, read, list)
		},
	}
}

func TestMetadataRequestsDoNotAllocate(t *testing.T) {
	for name, ask := range requests(t) {
		if status := ask(); status != fuse.OK {
			t.Errorf("%s: %v", name, status)
		}
		if n := testing.AllocsPerRun(100, func() { ask() }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func BenchmarkRequests(b *testing.B) {
	for name, ask := range requests(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
		})
	}
}

func TestUnknownNodesAreRefused(t *testing.T) {
	m := newMemory()
	im := build(t, m, zoo())
	fs := mount.NewFileSystem(im, m)
	for _, node := range []uint64{0, uint64(im.NumInodes()) + 1, 1 << 32, 1<<32 + 1, ^uint64(0)} {
		h := fuse.InHeader{NodeId: node}
		var dirs fuse.DirEntryList
		_, readlink := fs.Readlink(nil, &h)
		_, read := fs.Read(nil, &fuse.ReadIn{InHeader: h}, nil)
		_, get := fs.GetXAttr(nil, &h, "x", nil)
		_, list := fs.ListXAttr(nil, &h, nil)
		for what, status := range map[string]fuse.Status{
			"Lookup":   fs.Lookup(nil, &h, "x", &fuse.EntryOut{}),
			"GetAttr":  fs.GetAttr(nil, &fuse.GetAttrIn{InHeader: h}, &fuse.AttrOut{}),
			"Statx":    fs.Statx(nil, &fuse.StatxIn{InHeader: h}, &fuse.StatxOut{}),
			"ReadDir":  fs.ReadDir(nil, &fuse.ReadIn{InHeader: h}, &dirs),
			"Lseek":    fs.Lseek(nil, &fuse.LseekIn{InHeader: h}, &fuse.LseekOut{}),
			"Readlink": readlink, "Read": read, "GetXAttr": get, "ListXAttr": list,
		} {
			if status != fuse.Status(unix.ESTALE) {
				t.Errorf("%s of node %d: %v, want ESTALE", what, node, status)
			}
		}
	}
}
