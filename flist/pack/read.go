package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
)

// maxTries is how often a file is read when it changes meanwhile.
const maxTries = 3

// item is what a reader found out about an entry.
type item struct {
	err   error // it cannot be read; nothing else is set
	node  flist.Node
	id    fileID // of what has several names, else zero
	known bool   // the sequencer has it already; content was not read
	small []byte // content of a small file, in the batch's arena
	large *cutFile
}

// reader reads entries. Its run may be started several times.
type reader struct {
	putter *putter
	links  *links
	opener *opener
	help   chan part     // taken by whoever is idle
	done   chan struct{} // closed when there is nothing more to help with
}

// part is a run of the entries of a batch. It holds the batch's directory.
type part struct {
	b        *batch
	from, to int
}

func newReader(p *putter, l *links) *reader {
	return &reader{putter: p, links: l, opener: &opener{}, help: make(chan part), done: make(chan struct{})}
}

// finish says that all batches have been read.
func (r *reader) finish() { close(r.done) }

// hand is the state of one goroutine of a reader.
type hand struct {
	*reader
	cutter *cutter
	xattrs xattrReader
	stx    unix.Statx_t
	link   []byte
	part   part // at hand
	arena  *arena
}

// run reads batches, and helps others with theirs, until finish.
func (r *reader) run(ctx context.Context, jobs <-chan *batch) error {
	h := &hand{reader: r, cutter: newCutter(r.putter), link: make([]byte, flist.MaxTarget+1)}
	for {
		var p part
		select {
		case b, ok := <-jobs:
			if !ok {
				jobs = nil
				continue
			}
			p = part{b, 0, len(b.entries)}
		case p = <-r.help:
		case <-r.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		err := h.read(ctx, p)
		p.b.release()
		if err != nil {
			return err
		}
	}
}

// read fills in the items of a part of a batch.
func (h *hand) read(ctx context.Context, p part) error {
	if p.from == p.to {
		return nil
	}
	h.part, h.arena = p, p.b.arena()
	for i := p.from; i < h.part.to; i++ {
		it := &p.b.items[i]
		var err error
		for range maxTries {
			*it = item{}
			if err = h.entry(ctx, p.b, p.b.entries[i], it); !errors.Is(err, ErrChanging) {
				break
			}
		}
		if cause, fatal := isFatal(err); fatal {
			return cause
		}
		if exhausted(err) {
			return Problem{Path: p.b.node.path(p.b.entries[i].name), Err: err}
		}
		if err != nil {
			*it = item{err: err}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		h.part.from = i + 1
	}
	p.b.finished(h.part.to - p.from)
	return nil
}

// shareRest hands the entries after the one at hand to an idle reader, if
// there is one, because this one takes long.
func (h *hand) shareRest() {
	rest := part{h.part.b, h.part.from + 1, h.part.to}
	if rest.from >= rest.to {
		return
	}
	rest.b.dir.hold()
	select {
	case h.help <- rest:
		h.part.to = rest.from
	default:
		rest.b.dir.release()
	}
}

// entry reads one entry of b.
func (h *hand) entry(ctx context.Context, b *batch, e entry, it *item) error {
	if e.typ == unix.DT_REG {
		return h.file(ctx, b, e.name, it)
	}
	if err := h.statx(b.dir.fd, e.name); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if uint8(h.stx.Mode&unix.S_IFMT>>12) != e.typ {
		return errors.New("the entry was replaced by one of another type while the tree was read")
	}
	it.node.Attr = attrOf(&h.stx)
	if e.typ == unix.DT_LNK {
		n, err := unix.Readlinkat(b.dir.fd, e.name, h.link)
		if err != nil {
			return fmt.Errorf("read link: %w", err)
		}
		it.node.Target = append([]byte(nil), h.link[:n]...)
	}
	if e.typ != unix.DT_DIR {
		h.identify(it)
	}
	var err error
	it.node.Xattrs, err = h.xattrs.read(target{path: "/proc/self/fd/" + strconv.Itoa(b.dir.fd) + "/" + e.name})
	return err
}

// root reads the attributes of the directory fd is open on.
func (r *reader) root(fd int) (flist.Node, error) {
	h := hand{reader: r}
	if err := h.statx(fd, ""); err != nil {
		return flist.Node{}, fmt.Errorf("stat: %w", err)
	}
	xattrs, err := h.xattrs.read(target{fd: fd})
	return flist.Node{Attr: attrOf(&h.stx), Xattrs: xattrs}, err
}

// identify notes which inode it is if it has several names, and whether the
// sequencer has met it under another.
func (h *hand) identify(it *item) {
	if h.stx.Nlink > 1 {
		it.id = fileID{unix.Mkdev(h.stx.Dev_major, h.stx.Dev_minor), h.stx.Ino}
		_, it.known = h.links.get(it.id)
	}
}

// file reads a regular file.
func (h *hand) file(ctx context.Context, b *batch, name string, it *item) error {
	// Should a FIFO or a link have come into its place, it is neither waited
	// for nor followed.
	fd, err := h.opener.open(b.dir.fd, name, unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if err := h.statx(fd, ""); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if h.stx.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("the file was replaced by something else while the tree was read")
	}
	before := versionOf(&h.stx)
	it.node.Attr = attrOf(&h.stx)
	if h.identify(it); it.known {
		return nil
	}
	if it.node.Xattrs, err = h.xattrs.read(target{fd: fd}); err != nil {
		return err
	}
	if err := h.content(ctx, fd, before.size, it); err != nil {
		return err
	}
	if err := h.statx(fd, ""); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if versionOf(&h.stx) != before {
		return ErrChanging
	}
	return nil
}

// content reads a file's bytes up to its end, whatever size it claims.
func (h *hand) content(ctx context.Context, fd int, size uint64, it *item) error {
	if size < SmallFile && !hasHole(fd, size) {
		data, whole, err := h.arena.read(fd, int(size))
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if whole {
			it.small = data
			it.node.Digest, it.node.HasDigest = sha256.Sum256(data), true
			return nil
		}
		size = 0 // it is longer than it claims to be
	}
	h.shareRest()
	f, err := h.cutter.cut(ctx, fd, size)
	if err != nil {
		return err
	}
	it.large = f
	it.node.Digest, it.node.HasDigest = h.cutter.sum(f)
	return nil
}

// hasHole reports whether a small file has a hole.
func hasHole(fd int, size uint64) bool {
	if size == 0 {
		return false
	}
	off, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
	return err == nil && uint64(off) < size
}

// statx fills h.stx for name in dirfd, or for dirfd itself if name is "".
func (h *hand) statx(dirfd int, name string) error {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	for {
		err := unix.Statx(dirfd, name, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &h.stx)
		if err != unix.EINTR {
			return err
		}
	}
}

func attrOf(s *unix.Statx_t) flist.Attr {
	a := flist.Attr{
		Mode:     uint32(s.Mode),
		UID:      s.Uid,
		GID:      s.Gid,
		Mtime:    flist.Time{Sec: s.Mtime.Sec, Nsec: s.Mtime.Nsec},
		HasBtime: s.Mask&unix.STATX_BTIME != 0,
	}
	if a.HasBtime {
		a.Btime = flist.Time{Sec: s.Btime.Sec, Nsec: s.Btime.Nsec}
	}
	if a.IsDevice() {
		a.Rdev = unix.Mkdev(s.Rdev_major, s.Rdev_minor)
	}
	return a
}

// version is what changes when a file is written to.
type version struct {
	size         uint64
	mtime, ctime unix.StatxTimestamp
}

func versionOf(s *unix.Statx_t) version { return version{s.Size, s.Mtime, s.Ctime} }
