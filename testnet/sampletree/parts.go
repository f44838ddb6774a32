package sampletree

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

// random returns n bytes that depend on the seed and on stream alone.
func (m *maker) random(stream byte, n int64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], m.opts.Seed)
	key[31] = stream
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// contents makes files of many sizes, duplicates, and content that is nearly
// the same.
func (m *maker) contents() {
	m.dir("small", 0o755)
	m.file("small/empty", 0o644, nil)
	m.file("small/empty-too", 0o600, nil)
	for i, size := range []int64{1, 2, 31, 4095, 4096, 4097, 20_000, 65_535, 65_536, 65_537} {
		m.file(fmt.Sprintf("small/%05d", size), 0o644, m.random(byte(i), size))
	}
	for i := range 300 {
		m.file(fmt.Sprintf("small/text-%03d", i), 0o644, fmt.Appendf(nil, "%s %d\n", repeated("some text ", i*37%5000+10), i))
	}
	m.file("small/text-again", 0o755, fmt.Appendf(nil, "%s %d\n", repeated("some text ", 7*37+10), 7))

	m.dir("large", 0o755)
	large := m.random(100, m.opts.LargeSize)
	m.file("large/random", 0o644, large)
	m.file("large/random-again", 0o644, large)
	m.file("large/shifted", 0o644, append([]byte("some bytes in front"), large[:len(large)/2]...))
	m.file("large/zeros", 0o644, make([]byte, 1<<20))
	m.file("large/text", 0o644, []byte(repeated("compressible text, line after line\n", 1<<20)))
	large[len(large)/2] ^= 1
	m.file("large/one-bit-off", 0o644, large)
}

func (m *maker) directories() {
	m.dir("dirs", 0o755)
	m.dir("dirs/empty", 0o755)
	m.dir("dirs/a", 0o755)
	m.dir("dirs/a/b", 0o755)
	m.dir("dirs/a/b/c", 0o750)
	m.file("dirs/a/b/c/leaf", 0o644, []byte("leaf\n"))
}

func (m *maker) symlinks() {
	m.dir("links", 0o755)
	m.symlink("../small/00031", "links/relative")
	m.symlink("/etc/passwd", "links/absolute")
	m.symlink("nowhere", "links/dangling")
	m.symlink("self", "links/self")
	m.symlink("../dirs", "links/to-directory")
	m.symlink("../../../../../../../../../../..", "links/upwards")
	m.symlink(repeated("long/", 4000), "links/long-target")
	m.symlink("\xff\xfe/not utf-8", "links/other-bytes")

	m.file("links/file", 0o644, []byte("one inode, three names\n"))
	m.link("links/file", "links/file-again")
	m.link("links/file", "dirs/a/b/file-elsewhere")
	m.symlink("file", "links/symlink")
	m.link("links/symlink", "links/symlink-again")
	m.file("large/linked", 0o640, m.random(101, 300_000))
	m.link("large/linked", "dirs/linked")
}

func (m *maker) specials() {
	m.dir("special", 0o755)
	m.mknod("FIFO", "special/fifo", unix.S_IFIFO|0o622, 0)
	m.mknod("socket", "special/socket", unix.S_IFSOCK|0o755, 0)
	if m.err == nil && len(m.skipped) == 0 {
		m.link("special/fifo", "special/fifo-again")
	}
	if !m.needRoot("devices, whiteouts, opaque directories") {
		return
	}
	m.mknod("character device", "special/null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3))
	m.mknod("block device", "special/loop", unix.S_IFBLK|0o660, unix.Mkdev(7, 0))
	m.mknod("device with large numbers", "special/wide", unix.S_IFCHR|0o600, unix.Mkdev(0xabc, 0xcdef1))
	m.mknod("whiteout", "special/whiteout", unix.S_IFCHR, unix.Mkdev(0, 0))
	m.dir("special/opaque", 0o755)
	m.file("special/opaque/below", 0o644, []byte("hides the lower layer\n"))
	m.xattr(m.path("special/opaque"), "trusted.overlay.opaque", []byte("y"))
}

func (m *maker) modes() {
	m.dir("modes", 0o755)
	for _, mode := range []uint32{0o400, 0o600, 0o755, 0o777, 0o4755, 0o2755, 0o6755, 0o1644, 0o7777} {
		m.file(fmt.Sprintf("modes/%04o", mode), mode, []byte("mode\n"))
	}
	m.dir("modes/sticky", 0o1777)
	m.dir("modes/setgid", 0o2775)
	m.dir("modes/all", 0o7777)
	m.file("modes/setgid/inside", 0o644, []byte("group\n"))
	if m.needRoot("files and directories that their owner cannot read or write") {
		m.file("modes/0000", 0, []byte("none\n"))
		m.dir("modes/read-only", 0o555)
		m.file("modes/read-only/inside", 0o444, []byte("inside\n"))
		m.dir("modes/closed", 0)
		m.file("modes/closed/inside", 0o111, []byte("inside\n"))
	}
}

func (m *maker) owners() {
	if !m.needRoot("other owners") {
		return
	}
	m.dir("owners", 0o755)
	m.file("owners/plain", 0o644, []byte("owner\n"))
	m.file("owners/setuid", 0o755, []byte("owner\n"))
	m.file("owners/high", 0o644, []byte("owner\n"))
	m.dir("owners/dir", 0o2770)
	m.symlink("plain", "owners/symlink")
	m.mknod("FIFO", "owners/fifo", unix.S_IFIFO|0o600, 0)
	m.own("owners/plain", 1000, 100)
	m.own("owners/setuid", 1, 2)
	m.check(unix.Chmod(m.path("owners/setuid"), 0o6755))
	m.own("owners/high", 0xfffffff0, 0xffff0000)
	m.own("owners/dir", 33, 34)
	m.own("owners/symlink", 7, 8)
	m.own("owners/fifo", 0, 5)
}

func (m *maker) own(name string, uid, gid uint32) {
	if m.err == nil {
		// Through int, as -1 alone means "leave"; these fit everywhere Go's int has 64 bits.
		m.may("owner", unix.Lchown(m.path(name), int(uid), int(gid)))
	}
}

func (m *maker) times() {
	m.dir("times", 0o755)
	for _, t := range []struct {
		name      string
		sec, nsec int64
	}{
		{"epoch", 0, 0},
		{"one-nanosecond", 0, 1},
		{"just-before-1970", -1, 999_999_999},
		{"1950", -631_152_000, 123_456_789},
		{"2038", 2_147_483_648, 1},
		{"2106", 4_294_967_296, 5},
		{"2200", 7_258_118_400, 987_654_321},
	} {
		m.file("times/"+t.name, 0o644, []byte("time\n"))
		m.setTime(m.path("times/"+t.name), t.sec, t.nsec)
	}
	m.symlink("epoch", "times/symlink-1960")
	m.setTime(m.path("times/symlink-1960"), -315_619_200, 42)
}

func (m *maker) sparse() {
	m.dir("sparse", 0o755)
	const block = 64 << 10
	data := m.random(102, block)
	m.holes("sparse/hole-in-front", 4*block, map[int64][]byte{3 * block: data})
	m.holes("sparse/hole-at-end", 4*block, map[int64][]byte{0: data})
	m.holes("sparse/hole-between", 16*block, map[int64][]byte{0: data, 15 * block: data})
	m.holes("sparse/only-hole", 1<<20, nil)
	m.holes("sparse/odd-size", 5*block+123, map[int64][]byte{2 * block: data[:100]})
	m.holes("sparse/small", 20_000, map[int64][]byte{16_384: []byte("end")})
	if m.opts.Huge {
		m.holes("sparse/huge", 5<<30+7, map[int64][]byte{0: []byte("first"), 4<<30 + block: data, 5 << 30: []byte("last...")})
	}
}

func (m *maker) holes(name string, size int64, data map[int64][]byte) {
	if m.err != nil {
		return
	}
	f, err := os.Create(m.path(name))
	if !m.check(err) {
		return
	}
	defer f.Close()
	for off, b := range data {
		_, err := f.WriteAt(b, off)
		m.check(err)
	}
	m.check(f.Truncate(size))
	m.check(f.Chmod(0o644))
	m.stamp(name)
}

func (m *maker) many() {
	if m.opts.Entries == 0 {
		return
	}
	m.dir("many", 0o755)
	for i := 0; i < m.opts.Entries && m.err == nil; i++ {
		var content []byte
		if i%2 == 1 {
			content = fmt.Appendf(nil, "%d", i)
		}
		m.file(fmt.Sprintf("many/%06d", i), 0o644, content)
	}
}
