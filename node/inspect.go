package node

import (
	"context"
	"fmt"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

// sectionRoot is the root block among the sections of an Inspection.
const sectionRoot = "root"

// Inspect implements api.Checker. What is here is counted in one walk over the
// keys of the store.
func (n *Node) Inspect(ctx context.Context, name string) (api.Inspection, error) {
	im, err := n.load(ctx, name)
	if err != nil {
		return api.Inspection{}, err
	}
	defer im.Close()
	sizes := wantedSizes(im)
	if err := n.store.Iterate(ctx, func(id chunk.ID, packed int) error {
		if _, ok := sizes[id]; ok {
			sizes[id] = packed
		}
		return nil
	}); err != nil {
		return api.Inspection{}, err
	}
	root := im.Root()
	in := api.Inspection{
		CID: im.CID().String(), FormatVersion: root.Version, Entries: root.Counts.Entries, Inodes: root.Counts.Inodes,
		Bytes: root.Bytes, Annotations: root.Annotations, Types: map[string]uint64{},
	}
	for i := range im.NumInodes() {
		in.Types[typeName(im.Mode(flist.Inode(i)))]++
	}
	if in.Sections, err = n.sections(ctx, im, sizes); err != nil {
		return api.Inspection{}, err
	}
	for _, s := range in.Sections {
		in.MetadataChunks += s.Chunks
		in.MetadataBytes += s.Bytes
		in.MetadataPacked += s.PackedBytes
	}
	countData(im, sizes, &in)
	return in, nil
}

// wantedSizes has a key for every chunk of im, with 0: not here.
func wantedSizes(im *flist.Image) map[chunk.ID]int {
	sizes := make(map[chunk.ID]int, im.NumChunks()+16)
	for _, id := range im.MetadataChunks(true) {
		sizes[id] = 0
	}
	for i := range im.NumChunks() {
		id, _ := im.Chunk(uint32(i))
		sizes[id] = 0
	}
	return sizes
}

func (n *Node) sections(ctx context.Context, im *flist.Image, sizes map[chunk.ID]int) ([]api.Section, error) {
	root := im.Root()
	rootID := im.MetadataChunks(false)[0]
	block, err := n.working(im.CID()).Get(ctx, rootID)
	if err != nil {
		return nil, fmt.Errorf("root block of flist %s: %w", im.CID(), err)
	}
	out := []api.Section{{Name: sectionRoot, Chunks: 1, Bytes: uint64(len(block)), PackedBytes: uint64(sizes[rootID])}}
	if sizes[rootID] > 0 {
		out[0].ChunksHere = 1
	}
	for _, name := range flist.SectionNamesInOrder() {
		s := root.Sections[name]
		sec := api.Section{Name: name, Chunks: uint64(len(s.Chunks)), Bytes: s.Size}
		for _, l := range s.Chunks {
			if packed := sizes[l.ID()]; packed > 0 {
				sec.ChunksHere++
				sec.PackedBytes += uint64(packed)
			}
		}
		out = append(out, sec)
	}
	return out, nil
}

// countData counts the distinct data chunks of im.
func countData(im *flist.Image, sizes map[chunk.ID]int, in *api.Inspection) {
	seen := make(map[chunk.ID]bool, im.NumChunks())
	for i := range im.NumChunks() {
		id, size := im.Chunk(uint32(i))
		if seen[id] {
			continue
		}
		seen[id] = true
		in.DataChunks++
		in.DataBytes += uint64(size)
		if packed := sizes[id]; packed > 0 {
			in.DataChunksHere++
			in.DataBytesHere += uint64(size)
			in.DataPackedBytes += uint64(packed)
		}
	}
}
