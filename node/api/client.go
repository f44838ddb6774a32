package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Client asks a node. Close it when done.
type Client struct {
	http     *http.Client
	close    func() error
	patience time.Duration // with a node that was told to stop
}

var _ Service = (*Client)(nil)

// Dial returns a client of the daemon that listens on socket. The error
// matches ErrNoDaemon when nobody does, and fs.ErrPermission when the socket
// belongs to somebody else.
func Dial(socket string) (*Client, error) {
	dial := func(ctx context.Context) (net.Conn, error) { return dialUnix(ctx, socket) }
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("%w: nobody listens on %s", ErrNoDaemon, socket)
		}
		return nil, fmt.Errorf("connect to the daemon: %w", err)
	}
	_ = conn.Close()
	return newClient(dial, nil), nil
}

func dialUnix(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", socket)
}

// InProcess returns a client whose requests h serves in this process. Close
// waits until the requests under way have ended.
func InProcess(h http.Handler) *Client {
	l := newMemListener()
	srv := newServer(h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with http.ErrServerClosed
	}()
	return newClient(l.dial, func() error {
		err := closeServer(srv)
		<-done
		return err
	})
}

func newClient(dial func(context.Context) (net.Conn, error), closeServer func() error) *Client {
	t := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
		MaxIdleConns:       4,
		WriteBufferSize:    64 << 10,
		ReadBufferSize:     64 << 10,
	}
	return &Client{http: &http.Client{Transport: t}, patience: takeBackTime, close: func() error {
		t.CloseIdleConnections()
		if closeServer == nil {
			return nil
		}
		return closeServer()
	}}
}

// Close drops idle connections and, after InProcess, ends the server.
func (c *Client) Close() error { return c.close() }

// do sends a request and returns the answer, whose body the caller closes. An
// answer that is not a success becomes its error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	req, err := newRequest(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	return c.send(req)
}

func newRequest(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	u := url.URL{Scheme: "http", Host: "node", Path: prefix + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("ask the node: %w", err)
	}
	return req, nil
}

func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, transportError(req.Context(), err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	wire := new(Error)
	if json.Unmarshal(text, wire) == nil && wire.Code != "" {
		return nil, wire
	}
	return nil, fmt.Errorf("the node answered %s: %s", resp.Status, strings.TrimSpace(string(text)))
}

func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrNoDaemon, err)
	}
	return fmt.Errorf("ask the node: %w", err)
}

// call is a short question: one JSON value back.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, req, result any) error {
	body, err := jsonBody(req)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if result == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(result); err != nil {
		return cutOff(ctx, err)
	}
	return nil
}

// stream is a long question: a stream of events back. When ctx is done it
// returns once the node has taken back what it had half done.
func (c *Client) stream(ctx context.Context, path string, query url.Values, req, result any, on func(event) error) error {
	body, err := jsonBody(req)
	if err != nil {
		return err
	}
	asking, end := hangUp(ctx, c.patience)
	defer end()
	ask, err := newRequest(asking, http.MethodPost, path, query, body)
	if err != nil {
		return err
	}
	ask.Close = true // no other request may get a connection that was closed by half
	resp, err := c.send(ask)
	if err == nil {
		defer resp.Body.Close()
		err = readEvents(asking, resp.Body, result, on)
	}
	var wire *Error
	if err != nil && ctx.Err() != nil && (!errors.As(err, &wire) || wire.Code == Canceled) {
		return context.Cause(ctx)
	}
	return err
}

// takeBackTime is how long a node that was told to stop is waited for.
const takeBackTime = 30 * time.Second

// hangUp returns a context for one request. When ctx is done, the node is told
// so by closing only the sending half of the connection, and its last answer
// can still be read; the context itself is done only if that cannot be, or
// patience later. The returned function releases what it holds.
func hangUp(ctx context.Context, patience time.Duration) (context.Context, func()) {
	asking, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var conn atomic.Value
	stop := context.AfterFunc(ctx, func() {
		half, ok := conn.Load().(interface{ CloseWrite() error })
		if ok && half.CloseWrite() == nil {
			select {
			case <-time.After(patience):
			case <-asking.Done():
			}
		}
		cancel(context.Cause(ctx))
	})
	traced := httptrace.WithClientTrace(asking, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		conn.Store(got.Conn)
		if ctx.Err() != nil { // perhaps too late for the function above
			cancel(context.Cause(ctx))
		}
	}})
	return traced, func() { stop(); cancel(nil) }
}

// content is a question whose answer is bytes; a failure after the first byte
// comes as a trailer.
func (c *Client) content(ctx context.Context, path string, query url.Values, w io.Writer) error {
	resp, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyBuffer(w, onlyReader{resp.Body}, make([]byte, 256<<10)); err != nil {
		var op *net.OpError
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) || ctx.Err() != nil {
			return cutOff(ctx, err)
		}
		return err
	}
	text := resp.Trailer.Get(errorTrailer)
	if text == "" {
		return nil
	}
	plain, err := url.PathUnescape(text)
	if err != nil {
		return fmt.Errorf("read the node's error %q: %w", text, err)
	}
	wire := new(Error)
	if err := json.Unmarshal([]byte(plain), wire); err != nil {
		return fmt.Errorf("read the node's error %q: %w", plain, err)
	}
	return wire
}

// onlyReader hides a body's other methods, so that CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }

func jsonBody(v any) (io.Reader, error) {
	if v == nil {
		return nil, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return bytes.NewReader(b), nil
}

// onProgress returns the event function of an operation with progress.
func onProgress[P any](progress func(P)) func(event) error {
	return func(ev event) error {
		if progress == nil || ev.Progress == nil {
			return nil
		}
		var p P
		if err := json.Unmarshal(ev.Progress, &p); err != nil {
			return fmt.Errorf("read progress of the node: %w", err)
		}
		progress(p)
		return nil
	}
}

// onItem returns the event function of an operation with many answers.
func onItem[T any](each func(T) error) func(event) error {
	return func(ev event) error {
		if ev.Item == nil {
			return nil
		}
		var item T
		if err := json.Unmarshal(ev.Item, &item); err != nil {
			return fmt.Errorf("read answer of the node: %w", err)
		}
		return each(item)
	}
}
