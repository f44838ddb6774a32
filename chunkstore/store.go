// Package chunkstore keeps verified chunks on disk in one directory: their
// bytes in files that are only appended to, and where each is in a Badger
// database, the index, which also has the small records of the node and the
// datastore of the DHT.
//
// It does not fetch, announce, pin or evict: it takes chunks, gives them back,
// and tells through two callbacks what came and went. Content is hashed when
// it comes in (Put) and again each time it goes out to be used (Get), so what
// is used is right whatever happened to the disk. What goes out to a peer
// (GetPacked), who hashes it himself, is hashed the first time and has its
// checksum checked each time.
//
// One process owns a directory at a time. A Store may be used by many
// goroutines at once; Close waits for the calls under way and makes later ones
// fail with ErrClosed.
//
// Files: store.go opens and closes, put.go and get.go are the way in and out,
// together.go writes what comes at once in one go, segment.go, segment_read.go
// and vector.go are the files with the bytes, has.go tells what is held, scan.go
// looks at everything, compact.go gives space back, dir.go is the directory's
// version and lock, upgrade.go takes over an older one, rebuild.go makes a lost
// index anew, space.go is the care for a full disk, verified.go what need not be
// hashed again, record.go and datastore.go the other two kinds of entries.
package chunkstore

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/flistnode/flistnode/flist/chunk"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// ErrClosed is what every call on a closed Store fails with.
var ErrClosed = errors.New("chunk store is closed")

// DefaultReserveBytes is Options.ReserveBytes when it is 0.
const DefaultReserveBytes = 64 << 20

// maxPendingBytes bounds the packed bytes that wait to be written. A further
// Put waits.
const maxPendingBytes = 64 << 20

// The first byte of every key says what kind of entry it is.
const (
	kindChunk     = 'c' // then the 32 bytes of the ID; the value is a place
	kindDatastore = 'd' // then prefix and key of the datastore
	kindRecord    = 'r' // then namespace, a zero byte, key
)

// Options says how to open a store. The zero value is good.
type Options struct {
	// Log takes what the store has to say; Badger's own lines go there at
	// debug. Nil: nothing is logged.
	Log *slog.Logger

	// ReserveBytes is the free space of the disk that no Put goes into;
	// 0 means DefaultReserveBytes. It must cover what Badger writes by itself
	// afterwards, see space.go.
	ReserveBytes int64

	// OnPut is called after a chunk that was not held has become readable,
	// OnDelete after one has been deleted or dropped as corrupt. Calls for one
	// ID come one after another, in the order of the events; those for
	// different IDs may come at once. They must not block and must not put or
	// delete chunks.
	OnPut    func(id chunk.ID)
	OnDelete func(id chunk.ID)

	// segmentBytes is the size from which on a segment is full; 0 means 256 MiB.
	// Tests make it small.
	segmentBytes int64
}

// Store is an open store.
type Store struct {
	dir      string
	opts     Options
	log      *slog.Logger
	lock     *os.File
	db       *badger.DB // the index
	segments *segments

	calls      gate
	claims     claims
	together   together
	pending    *semaphore.Weighted
	writes     sync.RWMutex // shared by writers; exclusive to wait until all before are done
	writing    atomic.Int64 // bytes on their way to the disk
	compacting sync.Mutex
	faulted    atomic.Bool // a read of the index hit a bad page; see view
	verified   verified
}

var (
	_ chunk.Source = (*Store)(nil)
	_ chunk.Sink   = (*Store)(nil)
)

// Open opens the store in dir and creates it if dir is missing or empty. It
// fails with an *InUseError if another process has it, with a *VersionError if
// a newer program wrote it, and with ErrNotStore if dir holds something else.
// What an older program wrote it takes over first, which copies all chunks.
func Open(dir string, opts Options) (*Store, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.ReserveBytes == 0 {
		opts.ReserveBytes = DefaultReserveBytes
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, version, err := claimDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, opts: opts, log: opts.Log, lock: lock, pending: semaphore.NewWeighted(maxPendingBytes)}
	s.calls.idle = make(chan struct{})
	s.claims.busy = make(map[chunk.ID]chan struct{})
	if err := s.openFiles(version); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), lock.Close())
	}
	return s, nil
}

func (s *Store) openFiles(version int) (err error) {
	if err := s.roomToOpen(); err != nil {
		return err
	}
	if version < Version {
		if err := s.upgrade(); err != nil {
			return fmt.Errorf("take over format %d: %w", version, err)
		}
	}
	if err := s.removeOld(); err != nil {
		return err
	}
	if s.segments, err = openSegments(s.chunksDir(), s.opts.segmentBytes); err != nil {
		return err
	}
	err = s.rebuildIndex()
	if err == nil {
		s.db, err = s.openIndex()
	}
	if err != nil {
		return errors.Join(err, s.segments.close())
	}
	s.keepSpare()
	return nil
}

func (s *Store) openIndex() (*badger.DB, error) {
	db, err := badger.Open(s.indexOptions(s.indexDir()))
	if err != nil {
		err = fmt.Errorf("%w\n  If the index is damaged, remove %s: it is then made anew from the chunks, without the list of flists held", err, s.indexDir())
	}
	return db, err
}

// indexOptions: all values lie beside their keys, since places are short and
// records seldom; no compression and so no block cache, since tables are then
// read in place. An idle store holds two small memtables and the tables' indices
// and filters (about 2 bytes a chunk).
func (s *Store) indexOptions(dir string) badger.Options {
	return badger.LSMOnlyOptions(dir).
		WithLogger(badgerLog{s.log}).
		WithBypassLockGuard(true). // claimDir's lock says who holds it
		WithMetricsEnabled(false).
		WithDetectConflicts(false).
		WithSyncWrites(false).
		WithNumVersionsToKeep(1).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithMemTableSize(8 << 20).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithValueLogFileSize(1 << 20). // it stays empty
		WithChecksumVerificationMode(options.OnBlockRead)
}

// Dir returns the absolute path of the store's directory.
func (s *Store) Dir() string { return s.dir }

func (s *Store) indexDir() string  { return filepath.Join(s.dir, "index") }
func (s *Store) chunksDir() string { return filepath.Join(s.dir, "chunks") }

// Sync returns when everything put before it is on the disk. Without it a
// chunk survives the end of the process, however it ends, but perhaps not a
// power cut.
func (s *Store) Sync() error {
	if err := s.calls.enter(); err != nil {
		return err
	}
	defer s.calls.leave()
	if err := s.sync(); err != nil {
		return fmt.Errorf("sync store %s: %w", s.dir, err)
	}
	return nil
}

// sync writes the bytes before the index that names them.
func (s *Store) sync() error {
	if err := s.segments.sync(); err != nil {
		return err
	}
	return s.db.Sync()
}

// Close waits for the calls under way, so it must not be called from a callback;
// it writes what is only in memory and gives the directory free. A second Close
// returns ErrClosed.
func (s *Store) Close() error {
	if err := s.calls.shut(); err != nil {
		return err
	}
	err := errors.Join(s.segments.sync(), s.closeIndex(), s.segments.close())
	if err != nil {
		err = fmt.Errorf("close store %s: %w", s.dir, err)
	}
	return errors.Join(err, s.lock.Close())
}

func (s *Store) closeIndex() error {
	s.dropSpareIfShort(math.MaxInt64) // Badger's last flush may need it
	if s.faulted.Load() {
		return errors.Join(s.leaveOpen(), s.db.Sync())
	}
	return s.db.Close()
}

// ErrLeftOpen is what Close fails with after the disk could not be read.
// Nothing is lost: the next process replays Badger's logs, as after a kill.
var ErrLeftOpen = errors.New("disk could not be read, so the store stays locked until this process ends")

// leaveOpen is for a Badger with a bad page in one of its tables. Its Close may
// merge tables, in goroutines of its own, where a fault is the end of the
// process. As they go on, the directory stays locked, by a descriptor that is
// never closed.
func (s *Store) leaveOpen() error {
	if _, err := unix.FcntlInt(s.lock.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return errors.Join(ErrLeftOpen, err)
	}
	return ErrLeftOpen
}

// gate lets calls in until it is shut.
type gate struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{} // closed when shut and the last call has left
}

func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	g.n++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n--; g.n == 0 && g.closed {
		close(g.idle)
	}
}

// shut lets nobody in any more and returns when all have left.
func (g *gate) shut() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrClosed
	}
	g.closed = true
	if g.n == 0 {
		close(g.idle)
	}
	g.mu.Unlock()
	<-g.idle
	return nil
}

// badgerLog gives Badger's lines to slog. They are its own house-keeping and
// what matters comes back as an error, so all are debug.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any)   { l.line("error", f, a) }
func (l badgerLog) Warningf(f string, a ...any) { l.line("warning", f, a) }
func (l badgerLog) Infof(f string, a ...any)    { l.line("info", f, a) }
func (l badgerLog) Debugf(string, ...any)       {} // several lines for each write

func (l badgerLog) line(level, format string, args []any) {
	l.log.Debug("badger", "level", level, "message", trimLine(fmt.Sprintf(format, args...)))
}
