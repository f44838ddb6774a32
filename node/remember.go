package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/mount"
	"github.com/flistnode/flistnode/node/api"
)

// mountRecords is the namespace of the store's records that say what is to be
// mounted. A record's key is the mount point.
const mountRecords = "mount"

// mountRecord is a record's value. Upper is not in the request's own JSON,
// since it need not be UTF-8.
type mountRecord struct {
	api.MountRequest
	Upper []byte    `json:"upper_bytes,omitempty"`
	Since time.Time `json:"since"`
}

// request returns what was asked for when dir was mounted.
func (r mountRecord) request(dir string) api.MountRequest {
	req := r.MountRequest
	req.Dir, req.Upper = dir, string(r.Upper)
	return req
}

// remember notes that m is to be mounted again by the next daemon.
func (n *Node) remember(m *mounted) error {
	if !n.cfg.KeepMounts {
		return nil
	}
	rec := mountRecord{MountRequest: m.req, Upper: []byte(m.req.Upper), Since: m.since}
	b, err := json.Marshal(rec)
	if err == nil {
		err = n.store.PutRecord(mountRecords, m.Dir(), b)
	}
	if err != nil {
		return fmt.Errorf("remember mount %s: %w", m.Dir(), err)
	}
	return nil
}

// forget drops the record of a mount point and reports whether there was one.
func (n *Node) forget(dir string) (bool, error) {
	n.mounts.found(dir)
	if _, err := n.store.Record(mountRecords, dir); err != nil {
		if errors.Is(err, chunkstore.ErrNoRecord) {
			err = nil
		}
		return false, err
	}
	if err := n.store.DeleteRecord(mountRecords, dir); err != nil {
		return true, fmt.Errorf("forget mount %s: %w", dir, err)
	}
	return true, nil
}

// remembered returns the records by mount point.
func (n *Node) remembered() (map[string]mountRecord, error) {
	all := make(map[string]mountRecord)
	err := n.store.Records(mountRecords, func(dir string, value []byte) error {
		var rec mountRecord
		if err := json.Unmarshal(value, &rec); err != nil {
			return fmt.Errorf("read record of mount %q: %w", dir, err)
		}
		all[dir] = rec
		return nil
	})
	return all, err
}

// restore brings back what is remembered, all at a time, and returns when
// each is mounted or has failed. A mount whose connection to the kernel has
// been kept is served on; others are mounted anew. What fails stays
// remembered, is said in the log and is listed with the reason.
func (n *Node) restore(ctx context.Context) {
	defer close(n.mounts.restored)
	records, err := n.remembered()
	if err != nil {
		n.log.Error("mounts are not brought back", "err", err)
		return
	}
	kept := n.takeKept(ctx)
	var all sync.WaitGroup
	for _, k := range kept {
		rec, known := records[k.dir]
		if known = known && k.attached; known {
			delete(records, k.dir)
		} else {
			rec = mountRecord{MountRequest: api.MountRequest{FList: k.flist}, Since: time.Now()}
		}
		all.Go(func() {
			err := n.resume(ctx, k, rec, !known)
			if err == nil || ctx.Err() != nil {
				return
			}
			n.log.Warn("mount is replaced: who uses the old one gets errors", "mount", k.dir, "flist", rec.FList, "err", err)
			if known {
				n.mountAgain(ctx, k.dir, rec)
			}
		})
	}
	for dir, rec := range records {
		all.Go(func() { n.mountAgain(ctx, dir, rec) })
	}
	all.Wait()
	var live []*mount.Mount
	for _, m := range n.mounts.list() {
		live = append(live, m.Mount)
	}
	if err := mount.CleanPrivate(n.mountsDir(), live...); err != nil {
		n.log.Warn("parts of old mounts are left", "err", err)
	}
}

// mountAgain mounts what is remembered anew.
func (n *Node) mountAgain(ctx context.Context, dir string, rec mountRecord) {
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
		defer cancel()
		m, err := n.prepare(ctx, rec.request(dir))
		if err != nil {
			return err
		}
		m.since = rec.Since
		return n.mounts.start(ctx, m)
	}()
	switch {
	case err == nil:
		n.log.Info("mount is back", "mount", dir, "flist", rec.FList)
	case ctx.Err() == nil:
		n.log.Error("mount is not brought back", "mount", dir, "flist", rec.FList, "err", err)
		n.mounts.lose(dir, rec, err)
	}
}

// restoreTimeout bounds how long one mount is tried for after a start: its
// metadata may have to come from peers.
const restoreTimeout = time.Minute

// lostMount is a mount that could not be brought back.
type lostMount struct {
	rec mountRecord
	err error
}

// lose notes that a mount could not be brought back.
func (ms *mounts) lose(dir string, rec mountRecord, err error) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.lost[dir] = lostMount{rec, err}
}

// found forgets that a mount could not be brought back.
func (ms *mounts) found(dir string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.lost, dir)
}

// missing returns what could not be brought back.
func (ms *mounts) missing() []api.MountInfo {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	var infos []api.MountInfo
	for dir, l := range ms.lost {
		infos = append(infos, api.MountInfo{Dir: dir, FList: l.rec.FList, Name: l.rec.Name, Since: l.rec.Since,
			ReadWrite: l.rec.ReadWrite, Upper: string(l.rec.Upper), Problem: l.err.Error()})
	}
	return infos
}

// wait returns when what is remembered has been brought back.
func (ms *mounts) wait(ctx context.Context) error {
	select {
	case <-ms.restored:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
