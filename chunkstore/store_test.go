package chunkstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

func openT(tb testing.TB, dir string, opts Options) *Store {
	tb.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			tb.Error(err)
		}
	})
	return s
}

func closeT(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// randomBytes is n incompressible bytes that depend on seed alone.
func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	putNumber(key[:], seed)
	b := make([]byte, n)
	if _, err := rand.NewChaCha8(key).Read(b); err != nil {
		panic(err)
	}
	return b
}

func putNumber(b []byte, n uint64) { binary.LittleEndian.PutUint64(b, n) }

// textBytes is n compressible bytes.
func textBytes(n int) []byte { return bytes.Repeat([]byte("flistnode "), n/10+1)[:n] }

func putT(t *testing.T, s *Store, data []byte) chunk.Packed {
	t.Helper()
	p := chunk.Pack(data)
	if err := s.Put(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func wantHeld(t *testing.T, s *Store, data []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), chunk.Sum(data))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatal("content differs")
	}
}

func TestChunkComesBackAsItWasPut(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{})
	contents := map[string][]byte{
		"empty": {}, "one byte": {7}, "text": textBytes(100_000), "random": randomBytes(1, 100_000),
		"largest": randomBytes(2, chunk.MaxSize), "largest text": textBytes(chunk.MaxSize),
		"below threshold": randomBytes(3, 900), "at threshold": randomBytes(4, 1<<10-chunk.HeaderSize),
	}
	for round, when := range []string{"open", "reopened"} {
		if round == 1 {
			closeT(t, s)
			s = openT(t, dir, Options{})
		}
		for name, data := range contents {
			t.Run(when+"/"+name, func(t *testing.T) {
				want := chunk.Pack(data)
				if round == 0 {
					putT(t, s, data)
				}
				wantHeld(t, s, data)
				got, err := s.GetPacked(t.Context(), want.ID)
				if err != nil {
					t.Fatal(err)
				}
				if got.Codec != want.Codec || got.Size != want.Size || !bytes.Equal(got.Bytes, want.Bytes) {
					t.Errorf("packed form differs: codec %d, %d of %d bytes", got.Codec, len(got.Bytes), got.Size)
				}
				if held, err := s.Has(t.Context(), want.ID); err != nil || !held {
					t.Errorf("Has = %v, %v", held, err)
				}
			})
		}
	}
}

func TestMissingChunkIsNotFound(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	here, gone, never := chunk.Sum(textBytes(10)), chunk.Sum(textBytes(20)), chunk.Sum(nil)
	putT(t, s, textBytes(10))
	putT(t, s, textBytes(20))
	if err := s.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), never); err != nil {
		t.Errorf("delete of a chunk not held: %v", err)
	}
	for _, id := range []chunk.ID{gone, never} {
		if _, err := s.Get(t.Context(), id); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("Get: %v", err)
		}
		if _, err := s.GetPacked(t.Context(), id); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("GetPacked: %v", err)
		}
	}
	held, err := s.HasMany(t.Context(), []chunk.ID{never, here, gone, here})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]bool{false, true, false, true}, held); diff != "" {
		t.Error(diff)
	}
}

// TestHasManyAgreesWithHas asks for many at once, of a store that holds most of
// them and of one that holds many others besides.
func TestHasManyAgreesWithHas(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	for i := range 2000 {
		id := putT(t, s, fmt.Append(nil, i)).ID
		if i%7 == 0 {
			if err := s.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, step := range map[string]int{"most": 1, "few": 29} {
		t.Run(name, func(t *testing.T) {
			var ids []chunk.ID
			var want []bool
			for i := 0; i < 2100; i += step {
				ids = append(ids, chunk.Sum(fmt.Append(nil, i)), chunk.Sum(fmt.Append(nil, i/2)))
				want = append(want, i < 2000 && i%7 != 0, i/2%7 != 0)
			}
			held, err := s.HasMany(t.Context(), ids)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, held); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPutRefusesWhatIsNotTheChunk(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	good := chunk.Pack(textBytes(5000))
	plain := chunk.Packed{ID: good.ID, Size: 5000, Bytes: textBytes(5000)}
	for name, change := range map[string]func() chunk.Packed{
		"other id":           func() chunk.Packed { p := good; p.ID[0]++; return p },
		"other plain id":     func() chunk.Packed { p := plain; p.ID[0]++; return p },
		"other size":         func() chunk.Packed { p := good; p.Size--; return p },
		"negative size":      func() chunk.Packed { p := plain; p.Size = -1; return p },
		"size beyond bounds": func() chunk.Packed { p := good; p.Size = chunk.MaxSize + 1; return p },
		"unknown codec":      func() chunk.Packed { p := plain; p.Codec = 9; return p },
		"cut short":          func() chunk.Packed { p := good; p.Bytes = p.Bytes[:len(p.Bytes)-1]; return p },
	} {
		t.Run(name, func(t *testing.T) {
			p := change()
			corrupt := (*chunk.CorruptError)(nil)
			if err := s.Put(t.Context(), p); !errors.As(err, &corrupt) {
				t.Errorf("Put: %v", err)
			}
			if held, err := s.Has(t.Context(), p.ID); err != nil || held {
				t.Errorf("Has = %v, %v", held, err)
			}
		})
	}
}

func TestEventsTellWhatCameAndWent(t *testing.T) {
	var mu sync.Mutex
	var events []string
	note := func(what string) func(chunk.ID) {
		return func(id chunk.ID) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, what+" "+id.String())
		}
	}
	s := openT(t, t.TempDir(), Options{OnPut: note("put"), OnDelete: note("delete")})
	p := putT(t, s, textBytes(3000))
	putT(t, s, textBytes(3000))
	for range 2 {
		if err := s.Delete(t.Context(), p.ID); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"put " + p.ID.String(), "delete " + p.ID.String()}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Error(diff)
	}
}

func TestConcurrentUse(t *testing.T) {
	var mu sync.Mutex
	puts := map[chunk.ID]int{}
	s := openT(t, t.TempDir(), Options{segmentBytes: 1 << 20, OnPut: func(id chunk.ID) {
		mu.Lock()
		defer mu.Unlock()
		puts[id]++
	}})
	const n, workers = 150, 6
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range n {
				data := randomBytes(uint64(i), 20_000)
				p := chunk.Pack(data)
				if err := s.Put(t.Context(), p); err != nil {
					t.Error(err)
					return
				}
				if got, err := s.Get(t.Context(), p.ID); err != nil || !bytes.Equal(got, data) {
					t.Errorf("chunk %d just put: %v", i, err)
				}
				if i%50 == w {
					if err := s.Compact(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if len(puts) != n {
		t.Errorf("%d chunks announced, want %d", len(puts), n)
	}
	for id, times := range puts {
		if times != 1 {
			t.Errorf("chunk %s announced %d times", id, times)
		}
	}
}

func TestCloseWaitsAndLaterCallsFail(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	var wg sync.WaitGroup
	started := make(chan struct{}, 4)
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				err := s.Put(context.Background(), chunk.Pack(randomBytes(uint64(w*1_000_000+i), 5000)))
				if i == 0 {
					started <- struct{}{}
				}
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		<-started
	}
	closeT(t, s)
	wg.Wait()
	ctx := t.Context()
	id := chunk.Sum(nil)
	_, getErr := s.Get(ctx, id)
	_, packedErr := s.GetPacked(ctx, id)
	_, hasErr := s.Has(ctx, id)
	_, statsErr := s.Stats(ctx)
	_, recErr := s.Record("a", "b")
	for name, err := range map[string]error{
		"Get": getErr, "GetPacked": packedErr, "Has": hasErr, "Stats": statsErr, "Record": recErr,
		"Delete": s.Delete(ctx, id), "Sync": s.Sync(), "Compact": s.Compact(ctx), "Close": s.Close(),
		"PutRecord": s.PutRecord("a", "b", nil), "Put": s.Put(ctx, chunk.Pack(nil)),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestIterateAndStatsCountExactly(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	want := map[chunk.ID]int{}
	for i, n := range []int{0, 1, 1 << 10, 1018, 1019, 1020, 16377, 16378, 16379, 16380, 16381, 16382, 100_000, chunk.MaxSize} {
		p := putT(t, s, randomBytes(uint64(i), n))
		want[p.ID] = chunk.HeaderSize + len(p.Bytes)
	}
	if err := s.PutRecord("pins", "x", []byte("not a chunk")); err != nil {
		t.Fatal(err)
	}
	got := map[chunk.ID]int{}
	var sum int64
	err := s.Iterate(t.Context(), func(id chunk.ID, n int) error { got[id] = n; sum += int64(n); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Chunks != len(want) || st.PackedBytes != sum || st.DiskBytes < sum || st.DiskBytes > sum+64<<20 {
		t.Errorf("stats %+v, want %d chunks of %d bytes", st, len(want), sum)
	}
	stop := errors.New("enough")
	if err := s.Iterate(t.Context(), func(chunk.ID, int) error { return stop }); err != stop {
		t.Errorf("Iterate = %v, want the error of fn", err)
	}
}

func TestCompactGivesSpaceBack(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{segmentBytes: 1 << 20})
	for i := range 200 {
		putT(t, s, randomBytes(uint64(i), 50_000))
	}
	before := segmentsBytes(t, dir)
	for i := range 200 {
		if i%10 != 0 {
			if err := s.Delete(t.Context(), chunk.Sum(randomBytes(uint64(i), 50_000))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if i%10 == 0 {
			wantHeld(t, s, randomBytes(uint64(i), 50_000))
		}
	}
	if after := segmentsBytes(t, dir); after > before/2 {
		t.Errorf("segments have %d bytes after nine tenths of %d were deleted", after, before)
	}
}

func segmentsBytes(t *testing.T, dir string) int64 {
	t.Helper()
	n, err := diskBytes(filepath.Join(dir, "chunks"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{})
	for _, r := range [][3]string{{"pins", "b", "2"}, {"pins", "a", "1"}, {"pins", "c", ""}, {"pinsx", "d", "no"}, {"pin", "s", "no"}, {"pins", "a", "new"}} {
		if err := s.PutRecord(r[0], r[1], []byte(r[2])); err != nil {
			t.Fatal(err)
		}
	}
	big := randomBytes(1, MaxRecordBytes)
	if err := s.PutRecord("pins", "big", big); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRecord("pins", "b"); err != nil {
		t.Fatal(err)
	}
	closeT(t, s)
	s = openT(t, dir, Options{})
	var got []string
	err := s.Records("pins", func(key string, value []byte) error {
		got = append(got, fmt.Sprintf("%s=%.3s", key, value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a=new", fmt.Sprintf("big=%.3s", big), "c="}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if v, err := s.Record("pins", "big"); err != nil || !bytes.Equal(v, big) {
		t.Errorf("Record: %v", err)
	}
	if _, err := s.Record("pins", "b"); !errors.Is(err, ErrNoRecord) {
		t.Errorf("deleted record: %v", err)
	}
	for name, err := range map[string]error{
		"empty namespace": s.PutRecord("", "a", nil), "zero in namespace": s.PutRecord("a\x00b", "a", nil),
		"long name": s.PutRecord("a", string(make([]byte, maxNameBytes)), nil), "long value": s.PutRecord("a", "b", append(big, 0)),
	} {
		if err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

func TestPutHonoursItsContext(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	p := chunk.Pack(textBytes(100))
	release, err := s.claims.take(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("Put while another changes the chunk: %v", err)
	}
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDirEnv); dir != "" {
		os.Exit(childMain(dir))
	}
	os.Exit(m.Run())
}

func TestPackedSizeIsThatOfTheEncodedBytes(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	for i, n := range []int{0, 1, 500, 1100, 1 << 14, 1<<14 + 300, 100_000, chunk.MaxSize} {
		p := chunk.Pack(randomBytes(uint64(i), n))
		if size, held, err := s.PackedSize(t.Context(), p.ID); held || err != nil {
			t.Errorf("before Put: %d, %v, %v", size, held, err)
		}
		if err := s.Put(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if size, held, err := s.PackedSize(t.Context(), p.ID); !held || err != nil || size != len(p.Bytes) {
			t.Errorf("PackedSize = %d, %v, %v; want %d", size, held, err, len(p.Bytes))
		}
	}
}

// TestOwnedContentIsNobodyElses changes what GetOwned gave and reads again.
func TestOwnedContentIsNobodyElses(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	for name, data := range map[string][]byte{"plain": randomBytes(7, 100_000), "compressed": textBytes(chunk.MaxSize), "empty": {}} {
		p := putT(t, s, data)
		for range 3 {
			got, err := s.GetOwned(t.Context(), p.ID)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%s: %d bytes, %v; want %d", name, len(got), err, len(data))
			}
			clear(got)
			chunk.Recycle(got)
		}
	}
	if _, err := s.GetOwned(t.Context(), chunk.Sum([]byte("nowhere"))); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a chunk that is not held: %v", err)
	}
}

func TestManyPutTogetherAreKeptOnceEach(t *testing.T) {
	dir := t.TempDir()
	var events []chunk.ID
	s := openT(t, dir, Options{OnPut: func(id chunk.ID) { events = append(events, id) }})
	held := putT(t, s, textBytes(100))
	events = nil
	ps := []chunk.Packed{held}
	want := Added{}
	for i := range 30 {
		data := randomBytes(uint64(i), 1+i*10_000)
		p := chunk.PackInto(chunk.Sum(data), data, make([]byte, chunk.RoomToPack(len(data))))
		ps = append(ps, p)
		want.Chunks++
		want.Bytes += int64(len(p.Bytes))
	}
	ps = append(ps, ps[3], ps[20]) // named twice
	got, err := s.PutAllTrusted(t.Context(), ps)
	if err != nil || got != want {
		t.Fatalf("PutAllTrusted = %+v, %v; want %+v", got, err, want)
	}
	if len(events) != want.Chunks {
		t.Errorf("%d chunks were told of, want %d", len(events), want.Chunks)
	}
	if got, err = s.PutAllTrusted(t.Context(), ps); err != nil || got != (Added{}) {
		t.Errorf("put again: %+v, %v", got, err)
	}
	closeT(t, s)
	s = openT(t, dir, Options{})
	for i := range 30 {
		wantHeld(t, s, randomBytes(uint64(i), 1+i*10_000))
	}
}

func TestPutsOfTheSameManyInAnyOrderDoNotWaitForOneAnother(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	var ps []chunk.Packed
	for i := range 40 {
		ps = append(ps, chunk.Pack(randomBytes(uint64(i), 3000)))
	}
	var g errgroup.Group
	var chunks atomic.Int64
	for worker := range 8 {
		g.Go(func() error {
			mine := slices.Clone(ps)
			r := rand.New(rand.NewPCG(uint64(worker), 0))
			r.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
			added, err := s.PutAllTrusted(t.Context(), mine)
			chunks.Add(int64(added.Chunks))
			return err
		})
	}
	if err := g.Wait(); err != nil || chunks.Load() != int64(len(ps)) {
		t.Fatalf("%d chunks were added, %v; want %d, each once", chunks.Load(), err, len(ps))
	}
}

func TestOneBadChunkKeepsTheOthersOut(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	good, bad := chunk.Pack(textBytes(2000)), chunk.Pack(textBytes(3000))
	bad.Size = 1
	var corrupt *chunk.CorruptError
	if _, err := s.PutAllTrusted(t.Context(), []chunk.Packed{good, bad}); !errors.As(err, &corrupt) {
		t.Fatalf("PutAllTrusted = %v, want a CorruptError", err)
	}
	if held, err := s.Has(t.Context(), good.ID); err != nil || held {
		t.Errorf("Has = %v, %v after a refused batch", held, err)
	}
}

// What comes while a write is under way is written together; an error of that
// write is told to all of them.
func TestPutsThatMeetAreWrittenTogether(t *testing.T) {
	s := openT(t, t.TempDir(), Options{})
	s.writes.Lock() // the first write waits here
	const puts = 50
	errs := make(chan error, puts)
	for i := range puts {
		go func() { errs <- s.PutTrusted(t.Context(), chunk.Pack(randomBytes(uint64(i), 2000))) }()
	}
	gathered := func() int {
		s.together.mu.Lock()
		defer s.together.mu.Unlock()
		if s.together.next == nil {
			return 0
		}
		return len(s.together.next.ps)
	}
	for deadline := time.Now().Add(30 * time.Second); gathered() != puts-1; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d puts wait for the second write", gathered(), puts-1)
		}
		time.Sleep(time.Millisecond)
	}
	before := s.db.MaxVersion()
	s.writes.Unlock()
	for range puts {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := s.db.MaxVersion() - before; n != 2 {
		t.Errorf("%d transactions for %d puts, want 2", n, puts)
	}
	for i := range puts {
		wantHeld(t, s, randomBytes(uint64(i), 2000))
	}
}
