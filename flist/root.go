package flist

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Root is the decoded root block.
type Root struct {
	Version     uint64             `cbor:"flist"`
	Counts      Counts             `cbor:"counts"`
	Bytes       uint64             `cbor:"bytes"`  // of all files, as stat tells, hard links once
	Stored      uint64             `cbor:"stored"` // plain bytes of all chunks
	Sections    map[string]Section `cbor:"sections"`
	Annotations map[string]string  `cbor:"annotations"`
}

// Counts tells how many records each table has.
type Counts struct {
	Inodes      uint64 `cbor:"inodes"`
	Entries     uint64 `cbor:"entries"` // names, the root apart
	Directories uint64 `cbor:"directories"`
	Files       uint64 `cbor:"files"`
	Symlinks    uint64 `cbor:"symlinks"`
	Extents     uint64 `cbor:"extents"`
	Packs       uint64 `cbor:"packs"` // chunks of the packed stream
	Cuts        uint64 `cbor:"cuts"`  // chunks of the cut stream
	Attrs       uint64 `cbor:"attrs"`
	XattrSets   uint64 `cbor:"xattrsets"`
	Xattrs      uint64 `cbor:"xattrs"` // in all sets
}

// Section says where a table's bytes are: chunks of sectionChunk bytes each,
// the last one shorter.
type Section struct {
	Size   uint64 `cbor:"size"` // plain bytes
	Chunks []Link `cbor:"chunks"`
}

// sectionChunk is the plain size of every metadata chunk but a table's last.
const sectionChunk = chunk.MaxSize

// The tables of an flist.
const (
	SectionInodes   = "inodes"
	SectionEntries  = "entries"
	SectionNames    = "names"
	SectionExtents  = "extents"
	SectionChunks   = "chunks"
	SectionSymlinks = "symlinks"
	SectionAttrs    = "attrs"
	SectionXattrs   = "xattrs"
	SectionDigests  = "digests"
)

const mountTables = 8

// mountSections are the tables Load needs, in the order in which .flist files
// carry them. The digests come after and apart.
var mountSections = [mountTables]string{SectionInodes, SectionEntries, SectionNames, SectionExtents, SectionChunks,
	SectionSymlinks, SectionAttrs, SectionXattrs}

// SectionNamesInOrder lists all tables in their canonical order.
func SectionNamesInOrder() []string {
	return append(mountSections[:len(mountSections):len(mountSections)], SectionDigests)
}

// Link is a chunk ID as dag-cbor writes links: tag 42 around the binary CID.
type Link chunk.ID

// ID returns the chunk that l links to.
func (l Link) ID() chunk.ID { return chunk.ID(l) }

// MarshalCBOR writes l as tag 42.
func (l Link) MarshalCBOR() ([]byte, error) {
	return encMode.Marshal(cbor.Tag{Number: linkTag, Content: append([]byte{0}, chunk.ID(l).CID().Bytes()...)})
}

// UnmarshalCBOR reads tag 42 around the CID of a raw chunk.
func (l *Link) UnmarshalCBOR(b []byte) error {
	var tag cbor.RawTag
	if err := decMode.Unmarshal(b, &tag); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	var content []byte
	if err := decMode.Unmarshal(tag.Content, &content); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if tag.Number != linkTag || len(content) == 0 || content[0] != 0 {
		return errors.New("link: not a CID in tag 42")
	}
	c, err := cid.Cast(content[1:])
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if c.Version() != 1 || c.Type() != cid.Raw {
		return fmt.Errorf("link: %s is not a raw chunk", c)
	}
	id, err := chunk.FromCID(c)
	*l = Link(id)
	return err
}

const linkTag = 42

// maxLinks bounds the links of one root block: a root block is one chunk.
const maxLinks = chunk.MaxSize / 41

var encMode, decMode = func() (cbor.EncMode, cbor.DecMode) {
	enc, encErr := cbor.EncOptions{
		Sort: cbor.SortLengthFirst, ShortestFloat: cbor.ShortestFloatNone, IndefLength: cbor.IndefLengthForbidden,
		NilContainers: cbor.NilContainerAsEmpty,
	}.EncMode()
	dec, decErr := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, UTF8: cbor.UTF8RejectInvalid,
		MaxNestedLevels: 8, MaxArrayElements: maxLinks, MaxMapPairs: 4096,
	}.DecMode()
	if err := errors.Join(encErr, decErr); err != nil {
		panic(err) // constant options
	}
	return enc, dec
}()

// encode returns r as a root block.
func (r *Root) encode() ([]byte, error) {
	b, err := encMode.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode root block: %w", err)
	}
	if len(b) > chunk.MaxSize {
		return nil, fmt.Errorf("root block of %d bytes is beyond %d: too many entries or annotations for one flist", len(b), chunk.MaxSize)
	}
	return b, nil
}

// DecodeRoot reads a root block. It checks that b is the one encoding of what
// it says and that counts and table sizes agree; what the tables hold is
// checked by Load. Errors: ErrNotFlist, *VersionError, *FormatError.
func DecodeRoot(b []byte) (*Root, error) {
	var head struct {
		Version *uint64 `cbor:"flist"`
	}
	if err := decMode.Unmarshal(b, &head); err != nil || head.Version == nil {
		return nil, fmt.Errorf("%w: block has no flist version", ErrNotFlist)
	}
	if *head.Version != Version {
		return nil, &VersionError{Version: *head.Version}
	}
	r := new(Root)
	if err := decMode.Unmarshal(b, r); err != nil {
		return nil, malformed(rootBlock, "%v", err)
	}
	again, err := r.encode()
	if err != nil {
		return nil, malformed(rootBlock, "%v", err)
	}
	if !bytes.Equal(again, b) {
		return nil, malformed(rootBlock, "not in canonical form, or with unknown fields")
	}
	return r, r.check()
}

const rootBlock = "root block"

// check compares what the root block says of itself.
func (r *Root) check() error {
	c := &r.Counts
	if c.Inodes == 0 || c.Directories == 0 || c.Entries+1 < c.Inodes {
		return malformed(rootBlock, "%d inodes, %d entries, %d directories", c.Inodes, c.Entries, c.Directories)
	}
	for _, n := range []uint64{c.Inodes, c.Entries, c.Directories, c.Files, c.Symlinks, c.Extents, c.Packs, c.Cuts,
		c.Attrs, c.XattrSets, c.Xattrs} {
		if n > MaxTableBytes {
			return malformed(rootBlock, "count %d is beyond %d", n, MaxTableBytes)
		}
	}
	total := uint64(0)
	for name, s := range r.Sections {
		want, fixed := c.sectionSize(name)
		switch {
		case !slices.Contains(mountSections[:], name) && name != SectionDigests:
			return malformed(rootBlock, "unknown section %q", name)
		case s.Size > MaxTableBytes || total+s.Size > MaxTableBytes:
			return malformed(rootBlock, "tables of more than %d bytes", MaxTableBytes)
		case fixed && s.Size != want, !fixed && s.Size < want:
			return malformed(name, "%d bytes, counts ask for %d", s.Size, want)
		case uint64(len(s.Chunks)) != (s.Size+sectionChunk-1)/sectionChunk:
			return malformed(name, "%d chunks for %d bytes", len(s.Chunks), s.Size)
		}
		total += s.Size
	}
	if len(r.Sections) != len(mountSections)+1 {
		return malformed(rootBlock, "%d sections, want %d", len(r.Sections), len(mountSections)+1)
	}
	return nil
}

// sectionSize returns the bytes the counts ask of a table; for tables that end
// in text, the least they can be.
func (c *Counts) sectionSize(name string) (size uint64, fixed bool) {
	switch name {
	case SectionInodes:
		return c.Inodes * inodeSize, true
	case SectionEntries:
		return c.Directories*4 + c.Entries*4, true
	case SectionNames:
		return c.Entries * 2, false
	case SectionExtents:
		return c.Files*4 + c.Extents*16, true
	case SectionChunks:
		return (c.Packs + c.Cuts) * (4 + 32), true
	case SectionSymlinks:
		return c.Symlinks * 2, false
	case SectionAttrs:
		return c.Attrs * attrSize, true
	case SectionXattrs:
		return c.XattrSets*4 + c.Xattrs*(4+2), false
	case SectionDigests:
		return c.Files * 32, true
	}
	return 0, false
}

const (
	inodeSize = 4 + 8 + 4 + 8 + 4 // attr, mtime seconds and ns, birth time seconds and ns
	attrSize  = 6 * 4             // mode, uid, gid, major, minor, xattr set
)

// MetadataChunks lists the chunks of the tables in canonical order, those of
// the digests only if asked; the root block itself is not among them.
func (r *Root) MetadataChunks(digests bool) []chunk.ID {
	var ids []chunk.ID
	for _, name := range SectionNamesInOrder() {
		if name == SectionDigests && !digests {
			continue
		}
		for _, l := range r.Sections[name].Chunks {
			ids = append(ids, l.ID())
		}
	}
	return ids
}
