package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

// pinRecords is the namespace of the store's records that say which flists are
// held on purpose. A record's key is the flist's CID.
const pinRecords = "flist"

// maxNameBytes bounds the name a user gives an flist.
const maxNameBytes = 4096

// pinRecord is a record's value.
type pinRecord struct {
	Name string    `json:"name,omitempty"`
	How  string    `json:"how"`
	Time time.Time `json:"time"`
}

// pin notes that root is held and announces it. A name given earlier stays if
// this one is empty; what was packed stays "packed", and mounting something does
// not change how it came to be held, nor does keeping copies.
func (n *Node) pin(root cid.Cid, name, how string) error {
	rec := pinRecord{Name: name, How: how, Time: time.Now().UTC().Truncate(time.Second)}
	if old, err := n.pinOf(root); err == nil {
		if rec.Name == "" {
			rec.Name = old.Name
		}
		if old.How == api.HowPacked || how == api.HowMounted || how == api.HowReplicated {
			rec.How = old.How
		}
	} else if !errors.Is(err, chunkstore.ErrNoRecord) {
		return err
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("write record of flist %s: %w", root, err)
	}
	if err := n.store.PutRecord(pinRecords, root.String(), b); err != nil {
		return fmt.Errorf("write record of flist %s: %w", root, err)
	}
	id, err := chunk.FromCID(root)
	if err != nil {
		return err
	}
	n.announcer.rootCame(id)
	return nil
}

func (n *Node) pinOf(root cid.Cid) (pinRecord, error) {
	var rec pinRecord
	b, err := n.store.Record(pinRecords, root.String())
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("read record of flist %s: %w", root, err)
	}
	return rec, nil
}

// FLists implements api.Keeper. The newest come first.
func (n *Node) FLists(context.Context) ([]api.PinInfo, error) {
	pins := []api.PinInfo{}
	err := n.store.Records(pinRecords, func(key string, value []byte) error {
		var rec pinRecord
		if err := json.Unmarshal(value, &rec); err != nil {
			return fmt.Errorf("read record of flist %s: %w", key, err)
		}
		pins = append(pins, api.PinInfo{CID: key, Name: rec.Name, How: rec.How, Time: rec.Time})
		return nil
	})
	slices.SortStableFunc(pins, func(a, b api.PinInfo) int { return b.Time.Compare(a.Time) })
	return pins, err
}

// Remove implements api.Keeper.
func (n *Node) Remove(_ context.Context, name string) error {
	root, err := parseCID(name)
	if err != nil {
		return err
	}
	if n.mounts.uses(root) {
		return fmt.Errorf("%w: flist %s is mounted: unmount it first", api.ErrBusy, root)
	}
	if rec, _ := n.wishes.get(rootID(root)); rec.Copies > 0 {
		return fmt.Errorf("%w: copies of flist %s are kept: end that first (replicate --stop)", api.ErrBusy, root)
	}
	if _, err := n.store.Record(pinRecords, root.String()); err != nil {
		if errors.Is(err, chunkstore.ErrNoRecord) {
			return fmt.Errorf("flist %s is not held here: %w", root, chunk.ErrNotFound)
		}
		return err
	}
	if err := n.store.DeleteRecord(pinRecords, root.String()); err != nil {
		return err
	}
	n.swarm.Unshare(rootID(root))
	n.announcer.rootWent(rootID(root))
	return n.tables.drop(root)
}

// roots returns the root blocks of all flists held.
func (n *Node) roots() ([]chunk.ID, error) {
	var ids []chunk.ID
	err := n.store.Records(pinRecords, func(key string, _ []byte) error {
		root, err := flist.ParseCID(key)
		if err != nil {
			return fmt.Errorf("record of flist %q: %w", key, err)
		}
		id, err := chunk.FromCID(root)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

// parseCID reads the CID of a request.
func parseCID(s string) (cid.Cid, error) {
	root, err := flist.ParseCID(s)
	if err != nil {
		return root, fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	return root, nil
}
