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
)

const (
	manyRecords = 1_000_000
	lookupCount = 5000
	lookupMS    = 5 // the bound the project has set itself
)

// lookups are the times of single lookups in milliseconds, sorted.
type lookups []float64

func (l lookups) at(part float64) float64 { return l[int(part*float64(len(l)-1))] }

// measureLookups lets a node ask another, which keeps a million records, who
// has a chunk.
func measureLookups(ctx context.Context, dir string) (l lookups, err error) {
	if err := fillRecords(ctx, filepath.Join(dir, "0")); err != nil {
		return nil, err
	}
	n, err := newAnnounceNet(ctx, dir, 2, unpaced)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	ids := numbered(manyRecords, 2)
	for range lookupCount {
		began := time.Now()
		found := 0
		for range n.hosts[1].FindProviders(ctx, ids[mathrand.IntN(len(ids))], 1) {
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
