package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/flist/profile"
	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/hint"
)

// profileRecords is the namespace of the store's records of profiles. A
// record's key is the flist's CID. Only what mounts of this node have touched
// is in them; what peers tell is used and not kept.
const profileRecords = "profile"

const (
	recordLook  = time.Second      // how often a recording mount is looked at
	recordIdle  = 15 * time.Second // without a new chunk end the recording
	recordTime  = 2 * time.Minute  // and so does this much time since the first
	recordBytes = 256 << 20        // and so much plain content

	profilePeers = 16              // asked for a profile
	profileTime  = 3 * time.Second // waited for them
)

// Profile implements api.Profiler.
func (n *Node) Profile(ctx context.Context, name string) (api.ProfileInfo, error) {
	im, err := n.load(ctx, name)
	if err != nil {
		return api.ProfileInfo{}, err
	}
	defer im.Close()
	p, err := n.ownProfile(im)
	if err != nil {
		return api.ProfileInfo{}, err
	}
	if p == nil {
		return api.ProfileInfo{}, api.WithCode(api.NoEntry,
			fmt.Errorf("no profile of flist %s was recorded here: mount it, run the workload, then record it", im.CID()))
	}
	return n.profileInfo(ctx, im, p)
}

func (n *Node) profileInfo(ctx context.Context, im *flist.Image, p profile.Profile) (api.ProfileInfo, error) {
	info := api.ProfileInfo{FList: im.CID().String(), Chunks: p}
	in := make(map[chunk.ID]bool, len(p))
	for _, i := range p {
		id, size := im.Chunk(i)
		info.Bytes += uint64(size)
		in[id] = true
	}
	err := n.store.Iterate(ctx, func(id chunk.ID, packed int) error {
		if in[id] {
			info.PackedBytes += uint64(packed)
		}
		return nil
	})
	return info, err
}

// RecordProfile implements api.Profiler.
func (n *Node) RecordProfile(ctx context.Context, name string) (api.ProfileInfo, error) {
	im, err := n.load(ctx, name)
	if err != nil {
		return api.ProfileInfo{}, err
	}
	defer im.Close()
	var p profile.Profile
	mounted := false
	for _, m := range n.mounts.list() {
		if m.root.Equals(im.CID()) {
			mounted = true
			p = p.Merge(m.Touched(0))
		}
	}
	if !mounted {
		return api.ProfileInfo{}, fmt.Errorf("%w: flist %s is not mounted on this node: a profile is what a mount has touched", api.ErrInvalid, im.CID())
	}
	if err := n.saveProfile(im.CID(), p); err != nil {
		return api.ProfileInfo{}, err
	}
	return n.profileInfo(ctx, im, p)
}

// DropProfile implements api.Profiler.
func (n *Node) DropProfile(_ context.Context, name string) error {
	root, err := parseCID(name)
	if err != nil {
		return err
	}
	return n.store.DeleteRecord(profileRecords, root.String())
}

func (n *Node) saveProfile(root cid.Cid, p profile.Profile) error {
	if err := n.store.PutRecord(profileRecords, root.String(), p.Encode()); err != nil {
		return fmt.Errorf("write profile of flist %s: %w", root, err)
	}
	return nil
}

// ownProfile returns what was recorded here, nil if nothing was.
func (n *Node) ownProfile(im *flist.Image) (profile.Profile, error) {
	b, err := n.store.Record(profileRecords, im.CID().String())
	if errors.Is(err, chunkstore.ErrNoRecord) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := profile.Decode(b, im.NumChunks())
	if err != nil {
		return nil, fmt.Errorf("profile of flist %s: %w", im.CID(), err)
	}
	return p, nil
}

// tellProfile answers peers.
func (n *Node) tellProfile(root chunk.ID) []byte {
	b, err := n.store.Record(profileRecords, cid.NewCidV1(cid.DagCBOR, root.Multihash()).String())
	if err != nil {
		return nil
	}
	return b
}

// findProfile returns the profile recorded here, else the first one a peer
// tells, else nil.
func (n *Node) findProfile(ctx context.Context, im *flist.Image) profile.Profile {
	p, err := n.ownProfile(im)
	if err != nil {
		n.log.Warn("recorded profile cannot be used", "err", err)
	}
	if len(p) > 0 {
		return p
	}
	ctx, cancel := context.WithTimeout(ctx, profileTime)
	defer cancel()
	found := make(chan profile.Profile, profilePeers)
	var asking sync.WaitGroup
	root := rootID(im.CID())
	asked := map[peer.ID]bool{n.host.ID(): true}
	ask := func(id peer.ID) {
		if asked[id] {
			return
		}
		asked[id] = true
		asking.Go(func() {
			b, err := hint.Ask(ctx, n.host.Libp2p(), id, root)
			if err != nil || b == nil {
				return
			}
			p, err := profile.Decode(b, im.NumChunks())
			if err != nil {
				n.log.Debug("peer told no usable profile", "peer", id, "err", err)
				return
			}
			found <- p // there is room for all
		})
	}
	// Who is connected answers at once; of the providers some may be gone long ago.
	connected := n.host.Libp2p().Network().Peers()
	for _, id := range connected[:min(len(connected), profilePeers/2)] {
		ask(id)
	}
	asking.Go(func() {
		for info := range n.host.FindProviders(ctx, root, profilePeers) {
			if len(asked) > profilePeers { // itself is among them
				return
			}
			ask(info.ID)
		}
	})
	go func() { // ends with the questions, which ctx ends
		asking.Wait()
		close(found)
	}()
	p = <-found
	cancel()
	for range found { // until nobody asks any more
	}
	return p
}

// record watches what a mount touches and keeps it as the profile of its
// flist, once the workload has started or ctx ends. What an earlier workload
// touched besides is kept behind it.
func (n *Node) record(ctx context.Context, m *mounted, im *flist.Image) {
	order := n.recorded(ctx, m, im)
	if len(order) == 0 {
		return
	}
	old, err := n.ownProfile(im)
	if err != nil {
		n.log.Warn("recorded profile is replaced", "err", err)
	}
	merged := order.Merge(old)
	if len(merged) == len(old) {
		return // nothing new: the first order is the better one, since nothing was cached
	}
	if err := n.saveProfile(im.CID(), merged); err != nil {
		n.log.Warn("profile is not kept", "err", err)
		return
	}
	n.log.Info("profile recorded", "flist", im.CID(), "chunks", len(merged))
}

// recorded returns what m touches until it is idle, has touched much, or ctx
// ends.
func (n *Node) recorded(ctx context.Context, m *mounted, im *flist.Image) profile.Profile {
	var order profile.Profile
	var first, last time.Time
	bytes := 0
	for more := true; more; {
		more = wait(ctx, recordLook)
		now := time.Now()
		for _, i := range m.Touched(len(order)) {
			_, size := im.Chunk(i)
			if bytes += size; bytes > recordBytes || len(order) >= profile.MaxChunks {
				return order
			}
			order, last = append(order, i), now
		}
		if first.IsZero() {
			first = last
		}
		if !first.IsZero() && (now.Sub(last) > recordIdle || now.Sub(first) > recordTime) {
			return order
		}
	}
	return order
}
