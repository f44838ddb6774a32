package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flistnode/flistnode/node/api"
)

// TestService asks a node in the three ways there are: directly, through a
// client in this process, and through the control socket.
func TestService(t *testing.T) {
	t.Run("direct", func(t *testing.T) {
		testService(t, startNode(t, "b", nil))
	})
	t.Run("in process", func(t *testing.T) {
		c := api.InProcess(api.Handler(startNode(t, "b", nil)))
		defer c.Close()
		testService(t, c)
	})
	t.Run("socket", func(t *testing.T) {
		n := startNode(t, "b", nil)
		c := serve(t, n)
		testService(t, c)
	})
}

// serve answers on n's control socket and returns a client of it.
func serve(t *testing.T, n *Node) *api.Client {
	t.Helper()
	l, err := api.Listen(n.cfg.API)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, l, api.Handler(n), n.log) }()
	c, err := api.Dial(n.cfg.API)
	must(t, err)
	t.Cleanup(func() {
		stop()
		if err := errors.Join(c.Close(), <-done); err != nil {
			t.Errorf("control socket ended with: %v", err)
		}
		if _, err := os.Lstat(n.cfg.API); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("control socket is left: %v", err)
		}
	})
	return c
}

// testService is what every Service must do.
func testService(t *testing.T, s api.Service) {
	dir, files := sample(t, 20)
	ctx := t.Context()

	var progress []api.PackProgress
	res, err := s.Pack(ctx, api.PackRequest{Dir: dir, Name: "one", Annotations: map[string]string{"k": "v"}, Reproducible: true},
		func(p api.PackProgress) { progress = append(progress, p) })
	must(t, err)
	if res.Entries != 16 || res.Files != 7 || res.NewChunks == 0 || res.MetadataBytes == 0 || res.NewBytes > res.StoredBytes {
		t.Errorf("pack: %+v", res)
	}
	if len(progress) == 0 {
		t.Error("pack: no progress")
	}
	again, err := s.Pack(ctx, api.PackRequest{Dir: dir, Annotations: map[string]string{"k": "v"}, Reproducible: true}, nil)
	must(t, err)
	if again.CID != res.CID || again.NewChunks != 0 {
		t.Errorf("packing again: %+v", again)
	}
	cid := res.CID

	t.Run("tree", func(t *testing.T) { testTree(t, s, cid, files) })
	t.Run("inspect", func(t *testing.T) { testInspect(t, s, cid) })
	t.Run("diff", func(t *testing.T) { testDiff(t, s, cid, dir) })
	t.Run("unpack", func(t *testing.T) { testUnpack(t, s, cid) })
	t.Run("why", func(t *testing.T) { testWhy(t, s, cid) })
	t.Run("file", func(t *testing.T) { testFile(t, s, cid) })
	t.Run("verify", func(t *testing.T) {
		for _, req := range []api.VerifyRequest{{}, {FList: cid}, {FList: cid, Digests: true}} {
			got, err := s.Verify(ctx, req, nil)
			if err != nil || !got.OK() || got.Checked == 0 || req.Digests && got.Files != 7 {
				t.Errorf("verify %+v: %+v, %v", req, got, err)
			}
		}
	})
	t.Run("pins", func(t *testing.T) {
		pins, err := s.FLists(ctx)
		must(t, err)
		if i := slices.IndexFunc(pins, func(p api.PinInfo) bool { return p.CID == cid }); i < 0 || pins[i].Name != "one" {
			t.Errorf("flists: %+v", pins)
		}
		if _, err := s.Replicate(ctx, api.ReplicateRequest{FList: cid}, nil); api.CodeOf(err) != api.NoDaemon {
			t.Errorf("copies on a node that does not stay: %v", err)
		}
		if all, err := s.Replications(ctx); err != nil || len(all) > 0 {
			t.Errorf("wishes: %+v, %v", all, err)
		}
		if err := s.StopReplicating(ctx, cid); api.CodeOf(err) != api.NotFound {
			t.Errorf("end of a wish there is not: %v", err)
		}
		must(t, s.Remove(ctx, cid))
		if err := s.Remove(ctx, cid); api.CodeOf(err) != api.NotFound {
			t.Errorf("second removal: %v", err)
		}
	})
	t.Run("status", func(t *testing.T) {
		st, err := s.Status(ctx)
		must(t, err)
		id, err := s.ID(ctx)
		must(t, err)
		if st.PeerID != id.PeerID || st.Store.Chunks == 0 || st.Store.FreeBytes == 0 || len(st.Addrs) == 0 || st.Version != "test" {
			t.Errorf("status: %+v", st)
		}
		if peers, err := s.Peers(ctx); err != nil || len(peers) != 0 {
			t.Errorf("peers: %+v, %v", peers, err)
		}
	})
}

func testTree(t *testing.T, s api.Service, cid string, files map[string][]byte) {
	ctx := t.Context()
	var all []string
	must(t, s.List(ctx, cid, "/", api.ListOptions{Recursive: true, Digests: true}, func(e api.Entry) error {
		all = append(all, e.Path)
		if data, ok := files[e.Path]; ok {
			if want := fmt.Sprintf("%x", sha256.Sum256(data)); e.Digest != want || e.Size != uint64(len(data)) {
				t.Errorf("%q: size %d digest %s, want %d %s", e.Path, e.Size, e.Digest, len(data), want)
			}
		}
		return nil
	}))
	want := []string{"/empty", "/etc", "/etc/hostname", "/etc/odd \xff name", "/usr", "/usr/hard", "/usr/lib", "/usr/lib/large",
		"/usr/lib/text", "/usr/link", "/usr/share", "/usr/share/doc", "/usr/share/doc/readme", "/var", "/var/fifo", "/var/sparse"}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	var some []string
	must(t, s.List(ctx, cid, "usr//", api.ListOptions{}, func(e api.Entry) error {
		some = append(some, e.Path+" "+e.Type)
		return nil
	}))
	if diff := cmp.Diff([]string{"/usr/hard file", "/usr/lib dir", "/usr/link symlink", "/usr/share dir"}, some); diff != "" {
		t.Error(diff)
	}
	stop := errors.New("enough")
	if err := s.List(ctx, cid, "", api.ListOptions{Recursive: true}, func(api.Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("listing broken off: %v", err)
	}
	for path, want := range files {
		var got bytes.Buffer
		if err := s.Cat(ctx, cid, path, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("cat %q: %d bytes, %v; want %d", path, got.Len(), err, len(want))
		}
	}
	link, err := s.Stat(ctx, cid, "/usr/link")
	if err != nil || link.Target != "../etc/hostname" || link.Type != api.TypeSymlink {
		t.Errorf("stat of a symlink: %+v, %v", link, err)
	}
	hard, err := s.Stat(ctx, cid, "/usr/hard")
	if err != nil || hard.Nlink != 2 || hard.Digest == "" {
		t.Errorf("stat of a hard link: %+v, %v", hard, err)
	}
	if _, err := s.Stat(ctx, cid, "/usr/nothing"); api.CodeOf(err) != api.NoEntry || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of nothing: %v", err)
	}
	if err := s.Cat(ctx, cid, "/usr", io.Discard); api.CodeOf(err) != api.Invalid {
		t.Errorf("cat of a directory: %v", err)
	}
}

func testInspect(t *testing.T, s api.Service, cid string) {
	in, err := s.Inspect(t.Context(), cid)
	must(t, err)
	if in.Entries != 16 || in.Types[api.TypeFile] != 7 || in.Types[api.TypeFIFO] != 1 || in.Annotations["k"] != "v" {
		t.Errorf("inspect: %+v", in)
	}
	if in.DataChunks == 0 || in.DataChunks != in.DataChunksHere || in.DataBytes != in.DataBytesHere || in.Sections[0].Name != "root" {
		t.Errorf("inspect: %+v", in)
	}
	var sum uint64
	for _, sec := range in.Sections {
		sum += sec.Bytes
		if sec.Chunks != sec.ChunksHere {
			t.Errorf("section %+v", sec)
		}
	}
	if sum != in.MetadataBytes {
		t.Errorf("sections sum up to %d of %d bytes", sum, in.MetadataBytes)
	}
}

func testDiff(t *testing.T, s api.Service, cid, dir string) {
	ctx := t.Context()
	must(t, os.WriteFile(filepath.Join(dir, "etc/hostname"), []byte("another name\n"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "etc/new"), nil, 0o640))
	must(t, os.Remove(filepath.Join(dir, "usr/lib/text")))
	other, err := s.Pack(ctx, api.PackRequest{Dir: dir, Exclude: []string{"odd \xff*"}}, nil)
	must(t, err)
	got := map[string]string{}
	must(t, s.Diff(ctx, cid, other.CID, func(c api.Change) error {
		got[c.Path()] = c.Kind
		if c.Path() == "/etc/hostname" && !slices.Contains(c.What, "content") {
			t.Errorf("change of %s: %v", c.Path(), c.What)
		}
		return nil
	}))
	for path, kind := range map[string]string{"/etc/hostname": api.Changed, "/etc/new": api.Added, "/usr/lib/text": api.Removed,
		"/etc/odd \xff name": api.Removed, "/usr/lib/large": "", "/empty": ""} {
		if got[path] != kind {
			t.Errorf("%q: %q, want %q", path, got[path], kind)
		}
	}
}

func testUnpack(t *testing.T, s api.Service, cid string) {
	ctx := t.Context()
	to := filepath.Join(t.TempDir(), "odd \xfe target")
	res, err := s.Unpack(ctx, api.UnpackRequest{FList: cid, Dir: to}, nil)
	must(t, err)
	if res.Files != 7 {
		t.Errorf("unpack: %+v", res)
	}
	back, err := s.Pack(ctx, api.PackRequest{Dir: to, Annotations: map[string]string{"k": "v"}, Reproducible: true}, nil)
	must(t, err)
	if back.CID != cid {
		t.Errorf("unpacked tree packs to %s, was %s", back.CID, cid)
	}
	if _, err := s.Unpack(ctx, api.UnpackRequest{FList: cid, Dir: to}, nil); api.CodeOf(err) != api.Exists {
		t.Errorf("unpack into a directory that is not empty: %v (%s)", err, api.CodeOf(err))
	}
}

func testFile(t *testing.T, s api.Service, cid string) {
	ctx := t.Context()
	for _, data := range []bool{false, true} {
		var file bytes.Buffer
		must(t, s.Export(ctx, cid, true, data, &file))
		other := startNode(t, "importer", func(c *Config) { c.FetchTimeout = 1 })
		got, err := other.Import(ctx, bytes.NewReader(file.Bytes()))
		if err != nil || got != cid {
			t.Fatalf("import: %s, %v", got, err)
		}
		v, err := other.Verify(ctx, api.VerifyRequest{FList: cid, Digests: true}, nil)
		if err != nil || v.OK() != data {
			t.Errorf("after import with data %v: %+v, %v", data, v, err)
		}
		if cid2, err := s.Import(ctx, bytes.NewReader(file.Bytes())); err != nil || cid2 != cid {
			t.Errorf("import where it is: %s, %v", cid2, err)
		}
	}
	if _, err := s.Import(ctx, strings.NewReader("nothing of the kind")); api.CodeOf(err) != api.NotFlist {
		t.Errorf("import of something else: %v (%s)", err, api.CodeOf(err))
	}
	var none bytes.Buffer
	if err := s.Export(ctx, "no-cid", false, false, &none); api.CodeOf(err) != api.Invalid || none.Len() > 0 {
		t.Errorf("export of no CID: %v, %d bytes", err, none.Len())
	}
}

func TestRequestsOutOfBoundsAreRefused(t *testing.T) {
	n := startNode(t, "a", nil)
	h := api.Handler(n)
	for _, tc := range []struct {
		name, method, target, body string
		status                     int
	}{
		{"huge", "POST", "/v1/pack?dir=/x", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 400},
		{"unknown key", "POST", "/v1/pack?dir=/x", `{"nickname":"x"}`, 400},
		{"two values", "POST", "/v1/pack?dir=/x", `{}{}`, 400},
		{"no JSON", "POST", "/v1/fetch", `fetch it`, 400},
		{"no flag", "GET", "/v1/export?flist=x&data=perhaps", "", 400},
		{"no such thing", "GET", "/v1/nothing", "", 404},
		{"wrong method", "GET", "/v1/pack", "", 405},
		{"long name", "POST", "/v1/mount?dir=/tmp", `{"flist":"x","name":"` + strings.Repeat("x", 5000) + `"}`, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(tc.method, tc.target, strings.NewReader(tc.body)))
			if w.Code != tc.status {
				t.Errorf("status %d, want %d: %s", w.Code, tc.status, w.Body)
			}
		})
	}
}

func testWhy(t *testing.T, s api.Service, cid string) {
	ctx := t.Context()
	why, err := s.Why(ctx, api.WhyRequest{FList: cid, Path: "/usr/lib/large"})
	must(t, err)
	if len(why.Chunks) < 3 {
		t.Fatalf("chunks of a file of 3 MiB: %+v", why.Chunks)
	}
	sum := 0
	for _, c := range why.Chunks {
		sum += c.Bytes
		if !c.Here || c.Fetching || len(c.Members) != 0 || len(c.Asked) != 0 {
			t.Errorf("chunk that only this node has: %+v", c)
		}
	}
	if sum < 3<<20 {
		t.Errorf("chunks have %d bytes, the file 3 MiB", sum)
	}
	one, err := s.Why(ctx, api.WhyRequest{Chunk: why.Chunks[0].CID})
	must(t, err)
	if len(one.Chunks) != 1 || !one.Chunks[0].Here || one.Chunks[0].CID != why.Chunks[0].CID {
		t.Errorf("one chunk: %+v", one)
	}
	for name, c := range map[string]struct {
		req  api.WhyRequest
		want api.Code
	}{
		"no CID":      {api.WhyRequest{Chunk: "x"}, api.Invalid},
		"a directory": {api.WhyRequest{FList: cid, Path: "/usr"}, api.Invalid},
		"no path":     {api.WhyRequest{FList: cid, Path: "/none"}, api.NoEntry},
		"nothing":     {api.WhyRequest{}, api.Invalid},
	} {
		if _, err := s.Why(ctx, c.req); api.CodeOf(err) != c.want {
			t.Errorf("%s: %v (%s), want %s", name, err, api.CodeOf(err), c.want)
		}
	}
}
