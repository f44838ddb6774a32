package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"

	"github.com/flistnode/flistnode/chunkstore"
	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/p2p"
)

const (
	manyRecords = 1_000_000
	lookupCount = 5000
	lookupMS    = 5 // the bound the project has set itself

	announcedMeanwhile = 200_000
)

// lookups are the times of single lookups in milliseconds, sorted.
type lookups []float64

func (l lookups) at(part float64) float64 { return l[int(part*float64(len(l)-1))] }

// addLookups lets a node ask others who has a chunk, one of which keeps a
// million records: while nothing else happens, and while the third announces
// other chunks to both at the usual rate.
func addLookups(ctx context.Context, opts Options, dir string, t *Table) (err error) {
	opts.Progress("looking up chunks among a million records")
	if err := fillRecords(ctx, filepath.Join(dir, "0")); err != nil {
		return err
	}
	n, err := newAnnounceNet(ctx, dir, 3, p2p.DefaultAnnounceRate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	ids := numbered(manyRecords, 2)
	for _, when := range []string{"idle", "while others announce"} {
		if when != "idle" {
			// More than are sent before the lookups are done.
			if err := n.hosts[2].Announce(numbered(announcedMeanwhile, 4)...); err != nil {
				return fmt.Errorf("bench: %w", err)
			}
			err := until(ctx, func() (bool, error) { return n.received() > 0, nil })
			if err != nil {
				return fmt.Errorf("bench: announcing does not begin: %w", err)
			}
		}
		found, err := measureLookups(ctx, n.hosts[1], ids)
		if err != nil {
			return err
		}
		t.add("lookup among 1,000,000 records, "+when+", median", found.at(0.5), "ms", "", 0)
		t.add("lookup among 1,000,000 records, "+when+", 99 of 100", found.at(0.99), "ms", "the bound", lookupMS)
	}
	return nil
}

// measureLookups lets a node look up random ones of ids, all of which can be
// found.
func measureLookups(ctx context.Context, from *p2p.Host, ids []chunk.ID) (l lookups, err error) {
	for range lookupCount {
		began := time.Now()
		found := 0
		for range from.FindProviders(ctx, ids[mathrand.IntN(len(ids))], 1) {
			found++
		}
		if found == 0 {
			return nil, errors.New("bench: a record that is kept was not found")
		}
		l = append(l, time.Since(began).Seconds()*1000)
	}
	slices.Sort(l)
	return l, nil
}

// fillRecords writes a million records into a store, as announcing would.
func fillRecords(ctx context.Context, dir string) (err error) {
	store, err := chunkstore.Open(dir, chunkstore.Options{ReserveBytes: 1 << 20})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	peers, err := pstoremem.NewPeerstore()
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, peers.Close()) }()
	m, err := records.NewProviderManager("", peers, store.Datastore("/dht"))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	_, public, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	id, err := peer.IDFromPublicKey(public)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	for _, key := range numbered(manyRecords, 2) {
		if err := m.AddProvider(ctx, key.Multihash(), peer.AddrInfo{ID: id}); err != nil {
			return errors.Join(fmt.Errorf("bench: %w", err), m.Close())
		}
	}
	return m.Close()
}
