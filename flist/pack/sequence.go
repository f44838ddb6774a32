package pack

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// sequencer takes batches in canonical order and decides all that the CID
// depends on. It belongs to one goroutine.
type sequencer struct {
	opts    Options
	builder *flist.Builder
	links   *links
	putter  *putter
	counts  *counters

	files, cuts *index  // where content was laid down: whole small files, chunks of the cut stream
	pack        *buffer // the open pack
	packed      []*packID
	extents     []flist.Extent

	problems []Problem
	failed   int
}

// packID is the name of a closed pack, to be read once known is closed.
type packID struct {
	id    chunk.ID
	size  int
	known chan struct{}
}

func newSequencer(sink chunk.Sink, opts Options, links *links, putter *putter, counts *counters) (*sequencer, error) {
	s := &sequencer{opts: opts, links: links, putter: putter, counts: counts, pack: packs.get()}
	var err error
	if s.files, err = newIndex(); err != nil {
		return nil, err
	}
	if s.cuts, err = newIndex(); err != nil {
		return nil, errors.Join(err, s.files.close())
	}
	s.builder, err = flist.NewBuilder(sink, flist.BuilderOptions{Annotations: opts.Annotations, TempDir: opts.TempDir})
	if err != nil {
		return nil, errors.Join(err, s.files.close(), s.cuts.close())
	}
	return s, nil
}

func (s *sequencer) close() error {
	return errors.Join(s.builder.Close(), s.files.close(), s.cuts.close())
}

// run takes the batches until there are no more.
func (s *sequencer) run(ctx context.Context, root flist.Node, order <-chan *batch) error {
	s.clamp(&root.Attr)
	if err := s.builder.Root(root); err != nil {
		return err
	}
	for {
		select {
		case b, ok := <-order:
			if !ok {
				if _, more := s.builder.NextDir(); more {
					return errors.New("a directory was added that the walk has not seen")
				}
				return s.closePack(ctx)
			}
			if err := s.batch(ctx, b); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *sequencer) batch(ctx context.Context, b *batch) error {
	if b.first && !b.node.dropped {
		if _, ok := s.builder.NextDir(); !ok {
			return errors.New("the walk has seen a directory that was not added")
		}
	}
	if b.err != nil && !b.node.dropped {
		s.problem(b.node.path(""), b.err)
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer b.free()
	for i := range b.entries {
		e, it := &b.entries[i], &b.items[i]
		if b.node.dropped || it.err != nil {
			if e.node != nil {
				e.node.dropped = true
			}
			if !b.node.dropped {
				s.problem(b.node.path(e.name), it.err)
			}
			continue
		}
		if err := s.add(ctx, e.name, it); err != nil {
			return Problem{Path: b.node.path(e.name), Err: err}
		}
	}
	return nil
}

func (s *sequencer) problem(path string, err error) {
	if s.failed++; s.failed <= MaxProblems {
		s.problems = append(s.problems, Problem{Path: path, Err: err})
	}
}

// add adds one entry to the flist.
func (s *sequencer) add(ctx context.Context, name string, it *item) error {
	s.counts.entries.Add(1)
	if it.id != (fileID{}) {
		if ino, ok := s.links.get(it.id); ok {
			return s.builder.Link([]byte(name), ino)
		}
	}
	var err error
	s.extents = s.extents[:0]
	switch {
	case it.large != nil:
		err = s.addLarge(ctx, it)
	case len(it.small) > 0:
		err = s.addSmall(ctx, it)
	}
	if err != nil {
		return err
	}
	if it.node.Attr.Mode&unix.S_IFMT == unix.S_IFREG {
		s.counts.files.Add(1)
	}
	it.node.Extents = s.extents
	s.clamp(&it.node.Attr)
	ino, err := s.builder.Add([]byte(name), it.node)
	if err != nil {
		return err
	}
	if it.id != (fileID{}) {
		s.links.put(it.id, ino)
	}
	return nil
}

// clamp applies what the options say about times.
func (s *sequencer) clamp(a *flist.Attr) {
	if s.opts.Reproducible {
		a.HasBtime, a.Btime = false, flist.Time{}
	}
	if s.opts.SourceDateEpoch == nil {
		return
	}
	epoch := flist.Time{Sec: *s.opts.SourceDateEpoch}
	for _, t := range []*flist.Time{&a.Mtime, &a.Btime} {
		if t.Sec >= epoch.Sec {
			*t = epoch
		}
	}
}

// addSmall lays down a small file.
func (s *sequencer) addSmall(ctx context.Context, it *item) error {
	data := it.small
	s.counts.bytes.Add(int64(len(data)))
	if start, ok := s.files.get(&it.node.Digest); ok {
		s.extend(flist.Extent{Kind: flist.Again, Stream: flist.Packed, Start: start, Length: uint64(len(data))})
		return nil
	}
	if len(s.pack.b)+len(data) > PackMax {
		if err := s.closePack(ctx); err != nil {
			return err
		}
	}
	s.files.put(&it.node.Digest, s.builder.Position(flist.Packed))
	s.extend(flist.Extent{Kind: flist.Fresh, Stream: flist.Packed, Length: uint64(len(data))})
	s.pack.b = append(s.pack.b, data...)
	if len(s.pack.b) >= PackMin && endsPack(&it.node.Digest, len(data)) {
		return s.closePack(ctx)
	}
	return nil
}

// endsPack reports whether a pack ends after a file: with a probability of
// size / PackAvg, drawn from the file's digest.
func endsPack(sum *[sha256.Size]byte, size int) bool {
	if size >= PackAvg {
		return true
	}
	limit, _ := bits.Div64(uint64(size), 0, PackAvg) // size / PackAvg * 2^64
	return binary.BigEndian.Uint64(sum[:]) < limit
}

func (s *sequencer) closePack(ctx context.Context) error {
	if len(s.pack.b) == 0 {
		return nil
	}
	p := &packID{size: len(s.pack.b), known: make(chan struct{})}
	err := s.putter.submit(ctx, s.pack.b, s.pack, func(id chunk.ID) {
		p.id = id
		close(p.known)
	})
	if err != nil {
		return err
	}
	s.packed = append(s.packed, p)
	s.pack = packs.get()
	return s.namePacks(false)
}

// namePacks tells the builder the names of packs as far as they are known.
func (s *sequencer) namePacks(wait bool) error {
	for len(s.packed) > 0 {
		p := s.packed[0]
		if !wait {
			select {
			case <-p.known:
			default:
				return nil
			}
		}
		<-p.known
		if err := s.builder.AddChunk(flist.Packed, p.id, p.size); err != nil {
			return err
		}
		s.packed[0] = nil
		s.packed = s.packed[1:]
	}
	return nil
}

// addLarge lays down the pieces of a large file.
func (s *sequencer) addLarge(ctx context.Context, it *item) error {
	select {
	case <-it.large.pieces.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	position := s.builder.Position(flist.Cut)
	for _, block := range it.large.pieces.blocks {
		for i := range block {
			p := &block[i]
			e := flist.Extent{Stream: flist.Cut, Length: p.length}
			if p.hole {
				e.Kind, e.Stream = flist.Hole, 0
			} else if start, ok := s.cuts.get((*[sha256.Size]byte)(&p.id)); ok {
				e.Kind, e.Start = flist.Again, start
			} else {
				s.cuts.put((*[sha256.Size]byte)(&p.id), position)
				position += p.length
				if err := s.builder.AddChunk(flist.Cut, p.id, int(p.length)); err != nil {
					return err
				}
			}
			s.extend(e)
		}
	}
	if it.large.single {
		it.node.Digest, it.node.HasDigest = it.large.pieces.blocks[0][0].id, true
	}
	s.counts.bytes.Add(int64(it.large.read))
	return nil
}

// extend appends e to the extents of the file at hand.
func (s *sequencer) extend(e flist.Extent) {
	if n := len(s.extents); n > 0 {
		last := &s.extents[n-1]
		if last.Kind == e.Kind && last.Stream == e.Stream && (e.Kind != flist.Again || last.Start+last.Length == e.Start) {
			last.Length += e.Length
			return
		}
	}
	s.extents = append(s.extents, e)
}

// finish writes the flist. Everything that was submitted has been put.
func (s *sequencer) finish(ctx context.Context) (Result, error) {
	if s.failed > 0 && !s.opts.IgnoreUnreadable {
		return Result{}, &UnreadableError{Problems: s.problems, Count: s.failed}
	}
	if err := s.namePacks(true); err != nil {
		return Result{}, err
	}
	r := Result{
		Entries:     s.counts.entries.Load(),
		Files:       s.counts.files.Load(),
		Bytes:       s.counts.bytes.Load(),
		DataBytes:   int64(s.builder.Position(flist.Packed) + s.builder.Position(flist.Cut)),
		StoredBytes: s.counts.stored.Load(),
		Unreadable:  s.problems,
	}
	var err error
	if r.CID, r.Root, err = s.builder.Finish(ctx); err != nil {
		return Result{}, err
	}
	r.Chunks = int(r.Root.Counts.Packs + r.Root.Counts.Cuts)
	return r, nil
}
