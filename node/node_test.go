package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Started by the init of a library and never ended.
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreAnyFunction("github.com/ipfs/go-log/v2/writer.(*MirrorWriter).logRoutine"),
	)
}

// testLog sends what a node logs to the test.
func testLog(t testing.TB, name string) *slog.Logger {
	h := slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})
	return slog.New(h).With("node", name)
}

// startNode runs a node on loopback that begins with peers.
func startNode(t testing.TB, name string, change func(*Config), peers ...*Node) *Node {
	t.Helper()
	return startLogged(t, name, testLog(t, name), change, peers...)
}

// startLogged is startNode for a test that looks at what the node logs.
func startLogged(t testing.TB, name string, log *slog.Logger, change func(*Config), peers ...*Node) *Node {
	t.Helper()
	cfg := testConfig(t.TempDir())
	for _, p := range peers {
		cfg.Peers = append(cfg.Peers, p.addrs()...)
	}
	if change != nil {
		change(&cfg)
	}
	n, err := New(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, n.Close()); err != nil {
			t.Errorf("node %s ended with: %v", name, err)
		}
		noTablesLeft(t, cfg.Data)
	})
	for _, p := range peers {
		waitFor(t, fmt.Sprintf("%s to connect to %s", name, p.host.ID()), func() bool {
			return len(n.host.Libp2p().Network().ConnsToPeer(p.host.ID())) > 0
		})
	}
	return n
}

// noTablesLeft checks that every image of a node whose data directory is data
// was closed.
func noTablesLeft(t testing.TB, data string) {
	t.Helper()
	if n := mappedTables(t, data); n > 0 {
		t.Errorf("tables of %d images are still mapped", n)
	}
}

// mappedTables counts the images whose tables are mapped files below data.
func mappedTables(t testing.TB, data string) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	return strings.Count(string(maps), filepath.Join(data, tempDirName, "flist-image-")) +
		strings.Count(string(maps), filepath.Join(data, tablesDirName)+"/")
}

func testConfig(data string) Config {
	cfg := DefaultConfig()
	cfg.Data, cfg.API = data, filepath.Join(data, "api.sock")
	cfg.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	cfg.MDNS = false
	cfg.ReadTimeout, cfg.FetchTimeout = 20*time.Second, 20*time.Second
	cfg.Version = "test"
	return cfg
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// sample makes a directory with small and large files, links, a sparse file
// and a name that is not UTF-8, and returns the content of its files by path.
func sample(t testing.TB, seed uint64) (dir string, files map[string][]byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "tree")
	rnd := rand.NewChaCha8([32]byte{byte(seed)})
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = rnd.Read(b)
		return b
	}
	sparse := append(make([]byte, 1<<20), random(100_000)...)
	files = map[string][]byte{
		"/empty":                {},
		"/etc/hostname":         []byte("a name\n"),
		"/etc/odd \xff name":    []byte("odd\n"),
		"/usr/lib/large":        random(3 << 20),
		"/usr/lib/text":         bytes.Repeat([]byte("the same line again\n"), 20_000),
		"/usr/share/doc/readme": random(10_000),
		"/var/sparse":           sparse,
	}
	for path, data := range files {
		path = filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, data, 0o640))
	}
	must(t, os.Truncate(filepath.Join(dir, "/var/sparse"), 0))
	f, err := os.OpenFile(filepath.Join(dir, "/var/sparse"), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(sparse[1<<20:], 1<<20)
	must(t, errors.Join(err, f.Close()))
	must(t, os.Symlink("../etc/hostname", filepath.Join(dir, "usr/link")))
	must(t, os.Link(filepath.Join(dir, "etc/hostname"), filepath.Join(dir, "usr/hard")))
	must(t, unix.Mkfifo(filepath.Join(dir, "var/fifo"), 0o600))
	return dir, files
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func packed(t testing.TB, s api.Service, dir string) string {
	t.Helper()
	res, err := s.Pack(t.Context(), api.PackRequest{Dir: dir, Name: "sample"}, nil)
	must(t, err)
	return res.CID
}

func TestClosedNodeOpensAgainWithTheSameIdentityAndFLists(t *testing.T) {
	cfg := testConfig(t.TempDir())
	dir, _ := sample(t, 1)
	n, err := New(t.Context(), cfg, testLog(t, "first"))
	must(t, err)
	cid := packed(t, n, dir)
	id := n.host.ID()
	must(t, n.Close())

	n, err = New(t.Context(), cfg, testLog(t, "second"))
	must(t, err)
	defer n.Close()
	if n.host.ID() != id {
		t.Errorf("peer ID %s, was %s", n.host.ID(), id)
	}
	pins, err := n.FLists(t.Context())
	must(t, err)
	if len(pins) != 1 || pins[0].CID != cid || pins[0].Name != "sample" || pins[0].How != api.HowPacked {
		t.Errorf("flists held: %+v", pins)
	}
}

func TestSecondNodeOfADataDirectoryIsToldWhoHasIt(t *testing.T) {
	n := startNode(t, "a", nil)
	_, err := New(t.Context(), n.cfg, testLog(t, "second"))
	if !errors.Is(err, api.ErrInUse) || api.CodeOf(err) != api.InUse {
		t.Fatalf("New on a data directory in use: %v", err)
	}
	if !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("message %q does not name the process", err)
	}
}

func TestChunkLostFromTheStoreComesFromAPeerAndIsKept(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, files := sample(t, 2)
	cid := packed(t, a, dir)
	b := startNode(t, "b", nil, a)
	ctx := t.Context()
	_, err := b.Fetch(ctx, api.FetchRequest{FList: cid}, nil)
	must(t, err)

	im, err := b.load(ctx, cid)
	must(t, err)
	defer im.Close()
	id, _ := im.Chunk(uint32(im.NumChunks() - 1))
	must(t, b.store.Delete(ctx, id))
	ver, err := b.Verify(ctx, api.VerifyRequest{FList: cid}, nil)
	must(t, err)
	if ver.Missing != 1 || len(ver.MissingChunks) != 1 || ver.MissingChunks[0] != id.String() {
		t.Errorf("Verify with one chunk missing: %+v", ver)
	}
	for path, want := range files {
		var got bytes.Buffer
		must(t, b.Cat(ctx, cid, path, &got))
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%q: %d bytes differ from the %d packed", path, got.Len(), len(want))
		}
	}
	if held, err := b.store.Has(ctx, id); err != nil || !held {
		t.Errorf("chunk fetched again is held: %v, %v", held, err)
	}
}

func TestReadThatWaitedInVainNamesWhoOwesTheChunk(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, _ := sample(t, 2)
	cid := packed(t, a, dir)
	b := startNode(t, "b", nil, a)
	im, err := b.load(t.Context(), cid)
	must(t, err)
	defer im.Close()
	table, held, err := b.table(t.Context(), im)
	must(t, err)
	attending, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.attend(attending, table, held) })
	defer wg.Wait()
	defer leave()
	id, _ := im.Chunk(uint32(im.NumChunks() - 1))
	who := a.host.ID().String()
	waitFor(t, "news of what a holds", func() bool {
		return strings.Contains(b.owed(id, context.DeadlineExceeded).Error(), "hold it: "+who)
	})
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = b.reading(im.CID()).Get(ctx, id)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), who) {
		t.Errorf("error %v does not name %s", err, who)
	}
}

func TestChunkDamagedOnDiskIsFetchedAgain(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, files := sample(t, 10)
	cid := packed(t, a, dir)
	cfg := testConfig(t.TempDir())
	cfg.Peers = a.addrs()
	t.Run("fetch", func(t *testing.T) {
		b := startNode(t, "b", func(c *Config) { *c = cfg })
		_, err := b.Fetch(t.Context(), api.FetchRequest{FList: cid}, nil)
		must(t, err)
	})
	// Random content does not compress, so it lies in the store as it is.
	large := files["/usr/lib/large"]
	damage(t, cfg.Data, large[len(large)/2:][:64])

	b := startNode(t, "b again", func(c *Config) { *c = cfg }, a)
	var got bytes.Buffer
	must(t, b.Cat(t.Context(), cid, "/usr/lib/large", &got))
	if !bytes.Equal(got.Bytes(), large) {
		t.Error("content differs")
	}
	if st := b.swarm.Stats(); st.Chunks != 1 {
		t.Errorf("%d chunks were fetched again, want 1", st.Chunks)
	}
	ver, err := b.Verify(t.Context(), api.VerifyRequest{FList: cid, Digests: true}, nil)
	if err != nil || !ver.OK() {
		t.Errorf("verify after repair: %+v, %v", ver, err)
	}
}

// damage changes one byte in the file below dir that holds content.
func damage(t *testing.T, dir string, content []byte) {
	t.Helper()
	done := false
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(b, content)
		if at < 0 {
			return nil
		}
		done = true
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{^content[0]}, int64(at))
		return errors.Join(err, f.Close())
	}))
	if !done {
		t.Fatal("content is not in the store's files")
	}
}

func TestThirdNodeFindsAChunkThroughTheDHTAlone(t *testing.T) {
	middle := startNode(t, "middle", nil)
	a := startNode(t, "a", nil, middle)
	dir, files := sample(t, 3)
	cid := packed(t, a, dir)
	c := startNode(t, "c", nil, middle)
	var got bytes.Buffer
	must(t, c.Cat(t.Context(), cid, "/etc/hostname", &got))
	if got.String() != string(files["/etc/hostname"]) {
		t.Errorf("content %q", got.String())
	}
}

func TestCIDNobodyHasNamesWhoWasAsked(t *testing.T) {
	short := func(c *Config) { c.ReadTimeout, c.FetchTimeout = time.Second, time.Second }
	a := startNode(t, "a", nil)
	b := startNode(t, "b", short, a)
	nobody := "bafyreibvjvcv745gig4mvqs4hctx4zfkono4rjejm2ta6gtyzkqxfjeily"
	_, err := b.Stat(t.Context(), nobody, "/")
	if api.CodeOf(err) != api.NotFound {
		t.Fatalf("error %v has code %s", err, api.CodeOf(err))
	}
	if !strings.Contains(err.Error(), nobody) || !strings.Contains(err.Error(), a.host.ID().String()) {
		t.Errorf("message %q names neither the flist nor the peer asked", err)
	}
}

func TestBadFListsGiveClearErrors(t *testing.T) {
	n := startNode(t, "a", func(c *Config) { c.ReadTimeout, c.FetchTimeout = time.Second, time.Second })
	dir, _ := sample(t, 4)
	cid := packed(t, n, dir)
	var file bytes.Buffer
	must(t, n.Export(t.Context(), cid, true, false, &file))
	for _, tc := range []struct {
		name string
		do   func(context.Context) error
		code api.Code
	}{
		{"no CID", func(ctx context.Context) error { _, err := n.Inspect(ctx, "hello"); return err }, api.Invalid},
		{"CID of a file", func(ctx context.Context) error {
			_, err := n.Inspect(ctx, "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
			return err
		}, api.NotFlist},
		{"truncated file", func(ctx context.Context) error {
			_, err := n.Import(ctx, bytes.NewReader(file.Bytes()[:file.Len()/2]))
			return err
		}, api.Corrupt},
		{"file of something else", func(ctx context.Context) error {
			_, err := n.Import(ctx, strings.NewReader("#!/bin/sh\n"))
			return err
		}, api.NotFlist},
		{"no such path", func(ctx context.Context) error { _, err := n.Stat(ctx, cid, "/no/such"); return err }, api.NoEntry},
		{"cat of a directory", func(ctx context.Context) error { return n.Cat(ctx, cid, "/etc", io.Discard) }, api.Invalid},
		{"pack of nothing", func(ctx context.Context) error {
			_, err := n.Pack(ctx, api.PackRequest{Dir: dir + "-not"}, nil)
			return err
		}, api.NoEntry},
		{"pack of a relative path", func(ctx context.Context) error {
			_, err := n.Pack(ctx, api.PackRequest{Dir: "."}, nil)
			return err
		}, api.Invalid},
		{"pack of the data directory", func(ctx context.Context) error {
			_, err := n.Pack(ctx, api.PackRequest{Dir: n.cfg.Data}, nil)
			return err
		}, api.Invalid},
		{"unpack into the data directory", func(ctx context.Context) error {
			_, err := n.Unpack(ctx, api.UnpackRequest{FList: cid, Dir: filepath.Join(n.cfg.Data, "x")}, nil)
			return err
		}, api.Invalid},
		{"removal of what is not held", func(ctx context.Context) error {
			return n.Remove(ctx, "bafyreibvjvcv745gig4mvqs4hctx4zfkono4rjejm2ta6gtyzkqxfjeily")
		}, api.NotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.do(t.Context())
			if err == nil || api.CodeOf(err) != tc.code {
				t.Errorf("error %v has code %s, want %s", err, api.CodeOf(err), tc.code)
			}
		})
	}
}

func TestPackLeavesOutTheDataDirectory(t *testing.T) {
	dir, _ := sample(t, 5)
	n := startNode(t, "a", func(c *Config) { c.Data = filepath.Join(dir, "data") })
	cid := packed(t, n, dir)
	err := n.List(t.Context(), cid, "/data", api.ListOptions{}, func(e api.Entry) error {
		return fmt.Errorf("%s was packed", e.Path)
	})
	must(t, err)
	temp, err := os.ReadDir(n.tempDir())
	if err != nil || len(temp) > 0 {
		t.Errorf("temporary files left: %v, %v", temp, err)
	}
}

func TestCancelledFetchFailsAndALaterOneBringsTheRest(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, _ := sample(t, 6)
	cid := packed(t, a, dir)
	b := startNode(t, "b", nil, a)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := b.Fetch(ctx, api.FetchRequest{FList: cid}, func(p api.FetchProgress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled fetch: %v", err)
	}
	res, err := b.Fetch(t.Context(), api.FetchRequest{FList: cid}, nil)
	must(t, err)
	ver, err := b.Verify(t.Context(), api.VerifyRequest{FList: cid, Digests: true}, nil)
	must(t, err)
	if !ver.OK() || ver.Checked != res.Chunks || ver.Files != 7 {
		t.Errorf("after fetch of %d chunks: %+v", res.Chunks, ver)
	}
	again, err := b.Fetch(t.Context(), api.FetchRequest{FList: cid}, nil)
	must(t, err)
	if again.NewChunks != 0 || again.Chunks != res.Chunks {
		t.Errorf("fetch of what is here: %+v", again)
	}
}

func TestReadSucceedsWhenItCannotBeKept(t *testing.T) {
	a := startNode(t, "a", nil)
	dir, files := sample(t, 7)
	cid := packed(t, a, dir)
	b := startNode(t, "b", nil, a)
	im, err := b.load(t.Context(), cid)
	must(t, err)
	defer im.Close()
	ino, err := im.Resolve([]byte("/usr/lib/large"))
	must(t, err)
	// A store that refuses to keep is played by a chunk that has no valid form.
	piece, _ := im.PieceAt(ino, 0)
	id, _ := im.Chunk(piece.Chunk)
	p, _, err := b.ask(t.Context(), id, b.working(im.CID()).w)
	must(t, err)
	p.Size = -1
	b.keep(t.Context(), p)
	if b.keepWarned.Load() == 0 {
		t.Error("no warning was logged")
	}
	var got bytes.Buffer
	must(t, b.Cat(t.Context(), cid, "/usr/lib/large", &got))
	if !bytes.Equal(got.Bytes(), files["/usr/lib/large"]) {
		t.Error("content differs")
	}
}
