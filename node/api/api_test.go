package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Service whose answers a test gives.
type fake struct {
	Service // nil: what a test does not give is not called
	pack    func(context.Context, PackRequest, func(PackProgress)) (PackResult, error)
	cat     func(context.Context, string, string, io.Writer) error
	stat    func() (Entry, error)
	mounts  []MountInfo
}

func (f *fake) Pack(ctx context.Context, req PackRequest, p func(PackProgress)) (PackResult, error) {
	return f.pack(ctx, req, p)
}
func (f *fake) Cat(ctx context.Context, flist, path string, w io.Writer) error {
	return f.cat(ctx, flist, path, w)
}
func (f *fake) Stat(context.Context, string, string) (Entry, error) { return f.stat() }
func (f *fake) Mounts(context.Context) ([]MountInfo, error)         { return f.mounts, nil }

func socketPath(t *testing.T) string { return filepath.Join(t.TempDir(), "run", "api.sock") }

// serveT answers with s on socket until the test ends or stop is called.
func serveT(t *testing.T, socket string, s Service) (stop func()) {
	t.Helper()
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, Handler(s), slog.New(slog.DiscardHandler)) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// ways runs test with a client of both kinds.
func ways(t *testing.T, s Service, test func(*testing.T, *Client)) {
	t.Run("in process", func(t *testing.T) {
		c := InProcess(Handler(s))
		defer c.Close()
		test(t, c)
	})
	t.Run("socket", func(t *testing.T) {
		socket := socketPath(t)
		serveT(t, socket, s)
		c, err := Dial(socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		test(t, c)
	})
}

func TestSocketIsForItsOwnerAlone(t *testing.T) {
	socket := socketPath(t)
	stop := serveT(t, socket, &fake{})
	for path, want := range map[string]fs.FileMode{socket: fs.ModeSocket | 0o600, filepath.Dir(socket): fs.ModeDir | 0o700} {
		st, err := os.Lstat(path)
		if err != nil || st.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, st.Mode(), err, want)
		}
	}
	stop()
	if left, err := os.ReadDir(filepath.Dir(socket)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSocketRefusesOtherUsers(t *testing.T) {
	socket := socketPath(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if may := l.(*ownerListener).may; !may(uint32(os.Geteuid())) || !may(0) || may(uint32(os.Geteuid())+1) {
		t.Error("wrong users may connect")
	}
	l.(*ownerListener).may = func(uint32) bool { return false } // as if this were another user
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read from a connection that was to be refused: %v", err)
	}
	_ = l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept gave a connection of another user: %v", err)
	}
}

func TestSocketOfADeadDaemonIsReplacedAndThatOfALiveOneIsNot(t *testing.T) {
	socket := socketPath(t)
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(socket); !errors.Is(err, ErrNoDaemon) || CodeOf(err) != NoDaemon {
		t.Errorf("Dial of a dead socket: %v", err)
	}
	serveT(t, socket, &fake{})
	if _, err := Listen(socket); !errors.Is(err, ErrInUse) {
		t.Errorf("Listen on the socket of a live daemon: %v", err)
	}
	c, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestListenRefusesWhatIsNoSocket(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Listen on a file: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file now holds %q, %v", b, err)
	}
	if _, err := Listen("/tmp/" + strings.Repeat("x", 200)); !errors.Is(err, ErrInvalid) {
		t.Errorf("Listen on a path that is too long: %v", err)
	}
	if _, err := Dial(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("Dial of nothing: %v", err)
	}
}

func TestClientThatGoesAwayCancelsItsOperation(t *testing.T) {
	began := make(chan struct{}, 1)
	ended := make(chan error, 1)
	s := &fake{pack: func(ctx context.Context, _ PackRequest, progress func(PackProgress)) (PackResult, error) {
		progress(PackProgress{Entries: 1})
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return PackResult{}, ctx.Err()
	}}
	ways(t, s, func(t *testing.T, c *Client) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("interrupted")
		go func() {
			<-began
			cancel(why)
		}()
		if _, err := c.Pack(ctx, PackRequest{Dir: "/"}, nil); !errors.Is(err, why) {
			t.Errorf("client: %v", err)
		}
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Error("the operation goes on")
		}
	})
}

func TestClientThatGivesUpWaitsUntilTheNodeHasTakenBack(t *testing.T) {
	var takenBack atomic.Bool
	answer := make(chan error, 1)
	began := make(chan struct{}, 1)
	s := &fake{pack: func(ctx context.Context, _ PackRequest, _ func(PackProgress)) (PackResult, error) {
		began <- struct{}{}
		<-ctx.Done()
		time.Sleep(100 * time.Millisecond)
		takenBack.Store(true)
		err := <-answer
		return PackResult{CID: "whole"}, err
	}}
	socket := socketPath(t)
	serveT(t, socket, s)
	why := errors.New("interrupted")
	give := func(patience time.Duration) (PackResult, error) {
		c, err := Dial(socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.patience = patience
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-began
			cancel(why)
		}()
		return c.Pack(ctx, PackRequest{Dir: "/"}, nil)
	}
	for _, test := range []struct{ answer, want error }{
		{fmt.Errorf("pack: %w", context.Canceled), why},
		{fs.ErrPermission, fs.ErrPermission}, // why it could not be taken back
		{nil, nil},                           // it was done by then
	} {
		takenBack.Store(false)
		answer <- test.answer
		res, err := give(time.Minute)
		if !errors.Is(err, test.want) || (err == nil) != (res.CID == "whole") {
			t.Errorf("the node answers %v: got %+v, %v", test.answer, res, err)
		}
		if !takenBack.Load() {
			t.Error("the client did not wait")
		}
	}
	if _, err := give(time.Millisecond); !errors.Is(err, why) { // nobody has given it an answer
		t.Errorf("a node that does not stop: %v", err)
	}
	answer <- nil
}

func TestClientMayGiveUpAtAnyMoment(t *testing.T) {
	s := &fake{pack: func(ctx context.Context, _ PackRequest, _ func(PackProgress)) (PackResult, error) {
		<-ctx.Done()
		return PackResult{}, ctx.Err()
	}}
	ways(t, s, func(t *testing.T, c *Client) {
		why := errors.New("interrupted")
		for i := range 300 {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Duration(i)*2*time.Microsecond, func() { cancel(why) })
			if _, err := c.Pack(ctx, PackRequest{Dir: "/"}, nil); !errors.Is(err, why) {
				t.Fatalf("given up after %d us: %v", 2*i, err)
			}
		}
	})
}

func TestServerThatStopsEndsOperationsWithAnError(t *testing.T) {
	began := make(chan struct{}, 1)
	s := &fake{pack: func(ctx context.Context, _ PackRequest, _ func(PackProgress)) (PackResult, error) {
		began <- struct{}{}
		<-ctx.Done()
		return PackResult{}, fmt.Errorf("pack: %w", context.Cause(ctx))
	}}
	socket := socketPath(t)
	stop := serveT(t, socket, s)
	c, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := c.Pack(context.Background(), PackRequest{Dir: "/"}, nil)
		failed <- err
	}()
	<-began
	stop()
	if err := <-failed; CodeOf(err) != Canceled {
		t.Errorf("client of a daemon that stops: %v (%s)", err, CodeOf(err))
	}
}

func TestRequestsArriveAsTheyWereSent(t *testing.T) {
	epoch := int64(-5)
	want := PackRequest{Dir: "/odd \xff dir", Name: "n", Exclude: []string{"a\xfe", "b/*"}, OneFileSystem: true, Reproducible: true,
		IgnoreUnreadable: true, SourceDateEpoch: &epoch, Annotations: map[string]string{"a": "b"}, Workers: 3}
	result := PackResult{CID: "c", Entries: 1, Unreadable: []Problem{{Path: "x\xffy", Error: "no"}, {Path: `back\slash`}}}
	s := &fake{pack: func(_ context.Context, got PackRequest, progress func(PackProgress)) (PackResult, error) {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		progress(PackProgress{Files: 7})
		return result, nil
	}}
	ways(t, s, func(t *testing.T, c *Client) {
		var last PackProgress
		got, err := c.Pack(t.Context(), want, func(p PackProgress) { last = p })
		if err != nil || last.Files != 7 {
			t.Errorf("progress %+v, %v", last, err)
		}
		if diff := cmp.Diff(result, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEntriesSurviveJSONWhateverTheirBytes(t *testing.T) {
	for _, e := range []Entry{
		{Path: "/plain", Type: TypeFile, Mode: 0o7777, Mtime: Time{Sec: -1 << 62, Nsec: 999_999_999}},
		{Path: "/\xff\\x", Target: "\x00\xfe", Btime: &Time{Sec: 1 << 62}, Xattrs: []Xattr{{Name: "user.a", Value: []byte{0, 255}}}},
		{Path: `/\xff`, Type: TypeSymlink, Target: "ünï", Digest: "00"},
	} {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var got Entry
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Errorf("%s: %s", b, diff)
		}
	}
	b, err := json.Marshal(Problem{Path: "a\xff\\", Error: "e"})
	if want := `{"path":"a\\xff\\\\","path_bytes":"Yf9c","error":"e"}`; err != nil || string(b) != want {
		t.Errorf("%s, %v; want %s", b, err, want)
	}
	ways(t, &fake{mounts: []MountInfo{{Dir: "/mnt/\xff", FList: "c", BytesRead: 9}}}, func(t *testing.T, c *Client) {
		if got, err := c.Mounts(t.Context()); err != nil || len(got) != 1 || got[0].Dir != "/mnt/\xff" || got[0].BytesRead != 9 {
			t.Errorf("mounts %+v, %v", got, err)
		}
	})
}

func TestErrorsKeepTheirMeaningAcrossTheSocket(t *testing.T) {
	for _, tc := range []struct {
		err      error
		code     Code
		sentinel error
	}{
		{fmt.Errorf("load: %w", chunk.ErrNotFound), NotFound, chunk.ErrNotFound},
		{&chunk.CorruptError{Reason: "r"}, Corrupt, ErrCorrupt},
		{fmt.Errorf("%w: %w", chunk.ErrNotFound, &chunk.CorruptError{}), NotFound, chunk.ErrNotFound},
		{fmt.Errorf("x: %w", &flist.FormatError{Section: "names"}), Corrupt, ErrCorrupt},
		{&flist.VersionError{Version: 9}, Version, ErrVersion},
		{fmt.Errorf("x: %w", flist.ErrNotFlist), NotFlist, flist.ErrNotFlist},
		{&fs.PathError{Op: "open", Path: "p", Err: syscall.ENOENT}, NoEntry, fs.ErrNotExist},
		{syscall.ENOTEMPTY, Exists, fs.ErrExist},
		{syscall.EACCES, Permission, fs.ErrPermission},
		{fmt.Errorf("disk: %w", syscall.ENOSPC), NoSpace, syscall.ENOSPC},
		{WithCode(Busy, errors.New("held")), Busy, ErrBusy},
		{WithCode(InUse, errors.New("held")), InUse, ErrInUse},
		{context.DeadlineExceeded, Timeout, context.DeadlineExceeded},
		{errors.New("odd"), Internal, nil},
	} {
		ways(t, &fake{stat: func() (Entry, error) { return Entry{}, tc.err }}, func(t *testing.T, c *Client) {
			_, err := c.Stat(t.Context(), "c", "/")
			if CodeOf(err) != tc.code || err.Error() != tc.err.Error() || tc.sentinel != nil && !errors.Is(err, tc.sentinel) {
				t.Errorf("%v came as %v (%s), want %s", tc.err, err, CodeOf(err), tc.code)
			}
		})
	}
}

func TestContentThatFailsMidwaySaysSo(t *testing.T) {
	part := bytes.Repeat([]byte("x"), 300_000)
	ways(t, &fake{cat: func(_ context.Context, _, path string, w io.Writer) error {
		if path != "/early" {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		if path == "/whole" {
			return nil
		}
		return fmt.Errorf("late \x7f\n\"ü%%: %w", chunk.ErrNotFound)
	}}, func(t *testing.T, c *Client) {
		for path, want := range map[string]int{"/early": 0, "/late": len(part), "/whole": len(part)} {
			var got bytes.Buffer
			err := c.Cat(t.Context(), "c", path, &got)
			if got.Len() != want || (err == nil) != (path == "/whole") || err != nil && (!errors.Is(err, chunk.ErrNotFound) || !strings.HasPrefix(err.Error(), "late \x7f\n\"ü%: ")) {
				t.Errorf("%s: %d bytes, %v", path, got.Len(), err)
			}
		}
		full := errors.New("full")
		if err := c.Cat(t.Context(), "c", "/whole", failingWriter{full}); !errors.Is(err, full) {
			t.Errorf("error of the caller's writer: %v", err)
		}
	})
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestAnswerCutOffIsAnError(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == prefix+"/pack" {
			_, _ = io.WriteString(w, `{"progress":{}}`+"\n")
			return
		}
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "short")
	})
	c := InProcess(h)
	defer c.Close()
	if _, err := c.Pack(t.Context(), PackRequest{}, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("events cut off: %v", err)
	}
	if err := c.Cat(t.Context(), "c", "/", io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("content cut off: %v", err)
	}
}
