package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/flistnode/flistnode/flist/chunk"
)

// Pack implements Maker.
func (c *Client) Pack(ctx context.Context, req PackRequest, progress func(PackProgress)) (PackResult, error) {
	var res PackResult
	q := url.Values{"dir": {req.Dir}, "exclude": req.Exclude}
	err := c.stream(ctx, "/pack", q, req, &res, onProgress(progress))
	return res, err
}

// Import implements Maker. The client does not close r.
func (c *Client) Import(ctx context.Context, r io.Reader) (string, error) {
	resp, err := c.do(ctx, http.MethodPost, "/import", nil, io.NopCloser(r))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var cid string
	err = readEvents(ctx, resp.Body, &cid, func(event) error { return nil })
	return cid, err
}

// Fetch implements Taker.
func (c *Client) Fetch(ctx context.Context, req FetchRequest, progress func(FetchProgress)) (FetchResult, error) {
	var res FetchResult
	err := c.stream(ctx, "/fetch", nil, req, &res, onProgress(progress))
	return res, err
}

// Unpack implements Taker.
func (c *Client) Unpack(ctx context.Context, req UnpackRequest, progress func(UnpackProgress)) (UnpackResult, error) {
	var res UnpackResult
	err := c.stream(ctx, "/unpack", url.Values{"dir": {req.Dir}}, req, &res, onProgress(progress))
	return res, err
}

// Export implements Taker.
func (c *Client) Export(ctx context.Context, flist string, digests, data bool, w io.Writer) error {
	q := url.Values{"flist": {flist}, "digests": {strconv.FormatBool(digests)}, "data": {strconv.FormatBool(data)}}
	return c.content(ctx, "/export", q, w)
}

// List implements Reader.
func (c *Client) List(ctx context.Context, flist, path string, opts ListOptions, each func(Entry) error) error {
	q := url.Values{
		"flist": {flist}, "path": {path}, "recursive": {strconv.FormatBool(opts.Recursive)},
		"digests": {strconv.FormatBool(opts.Digests)}, "self": {strconv.FormatBool(opts.Self)},
	}
	return c.stream(ctx, "/list", q, nil, nil, onItem(each))
}

// Stat implements Reader.
func (c *Client) Stat(ctx context.Context, flist, path string) (Entry, error) {
	var e Entry
	err := c.call(ctx, http.MethodGet, "/stat", url.Values{"flist": {flist}, "path": {path}}, nil, &e)
	return e, err
}

// Cat implements Reader.
func (c *Client) Cat(ctx context.Context, flist, path string, w io.Writer) error {
	return c.content(ctx, "/cat", url.Values{"flist": {flist}, "path": {path}}, w)
}

// Chunk implements Reader. It checks what came.
func (c *Client) Chunk(ctx context.Context, flist string, id chunk.ID) ([]byte, error) {
	var b bytes.Buffer
	if err := c.content(ctx, "/chunk", url.Values{"flist": {flist}, "id": {id.String()}}, &b); err != nil {
		return nil, err
	}
	if err := chunk.Verify(id, b.Bytes()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Diff implements Checker.
func (c *Client) Diff(ctx context.Context, a, b string, each func(Change) error) error {
	return c.stream(ctx, "/diff", url.Values{"a": {a}, "b": {b}}, nil, nil, onItem(each))
}

// Inspect implements Checker.
func (c *Client) Inspect(ctx context.Context, flist string) (Inspection, error) {
	var in Inspection
	err := c.call(ctx, http.MethodGet, "/inspect", url.Values{"flist": {flist}}, nil, &in)
	return in, err
}

// Verify implements Checker.
func (c *Client) Verify(ctx context.Context, req VerifyRequest, progress func(VerifyProgress)) (VerifyResult, error) {
	var res VerifyResult
	err := c.stream(ctx, "/verify", nil, req, &res, onProgress(progress))
	return res, err
}

// Mount implements Mounter.
func (c *Client) Mount(ctx context.Context, req MountRequest) (MountInfo, error) {
	var info MountInfo
	err := c.call(ctx, http.MethodPost, "/mount", url.Values{"dir": {req.Dir}, "upper": {req.Upper}}, req, &info)
	return info, err
}

// Unmount implements Mounter.
func (c *Client) Unmount(ctx context.Context, dir string, force bool) error {
	q := url.Values{"dir": {dir}, "force": {strconv.FormatBool(force)}}
	return c.call(ctx, http.MethodPost, "/unmount", q, nil, nil)
}

// Mounts implements Mounter.
func (c *Client) Mounts(ctx context.Context) ([]MountInfo, error) {
	var mounts []MountInfo
	err := c.call(ctx, http.MethodGet, "/mounts", nil, nil, &mounts)
	return mounts, err
}

// Profile implements Profiler.
func (c *Client) Profile(ctx context.Context, flist string) (ProfileInfo, error) {
	var p ProfileInfo
	err := c.call(ctx, http.MethodGet, "/profile", url.Values{"flist": {flist}}, nil, &p)
	return p, err
}

// RecordProfile implements Profiler.
func (c *Client) RecordProfile(ctx context.Context, flist string) (ProfileInfo, error) {
	var p ProfileInfo
	err := c.call(ctx, http.MethodPost, "/profile/record", url.Values{"flist": {flist}}, nil, &p)
	return p, err
}

// DropProfile implements Profiler.
func (c *Client) DropProfile(ctx context.Context, flist string) error {
	return c.call(ctx, http.MethodPost, "/profile/drop", url.Values{"flist": {flist}}, nil, nil)
}

// FLists implements Keeper.
func (c *Client) FLists(ctx context.Context) ([]PinInfo, error) {
	var pins []PinInfo
	err := c.call(ctx, http.MethodGet, "/flists", nil, nil, &pins)
	return pins, err
}

// Remove implements Keeper.
func (c *Client) Remove(ctx context.Context, flist string) error {
	return c.call(ctx, http.MethodPost, "/remove", url.Values{"flist": {flist}}, nil, nil)
}

// Replicate implements Replicator.
func (c *Client) Replicate(ctx context.Context, req ReplicateRequest, progress func(Replication)) (Replication, error) {
	var res Replication
	err := c.stream(ctx, "/replicate", nil, req, &res, onProgress(progress))
	return res, err
}

// Replications implements Replicator.
func (c *Client) Replications(ctx context.Context) ([]Replication, error) {
	var all []Replication
	err := c.call(ctx, http.MethodGet, "/replications", nil, nil, &all)
	return all, err
}

// StopReplicating implements Replicator.
func (c *Client) StopReplicating(ctx context.Context, flist string) error {
	return c.call(ctx, http.MethodPost, "/replicate/stop", url.Values{"flist": {flist}}, nil, nil)
}

// Status implements Reporter.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, "/status", nil, nil, &s)
	return s, err
}

// Peers implements Reporter.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	var peers []Peer
	err := c.call(ctx, http.MethodGet, "/peers", nil, nil, &peers)
	return peers, err
}

// ID implements Reporter.
func (c *Client) ID(ctx context.Context) (Identity, error) {
	var id Identity
	err := c.call(ctx, http.MethodGet, "/id", nil, nil, &id)
	return id, err
}

// Why implements Reporter.
func (c *Client) Why(ctx context.Context, req WhyRequest) (Why, error) {
	var res Why
	q := url.Values{"chunk": {req.Chunk}, "flist": {req.FList}, "path": {req.Path}}
	err := c.call(ctx, http.MethodGet, "/why", q, nil, &res)
	return res, err
}

// Limits implements Limiter.
func (c *Client) Limits(ctx context.Context) (Limits, error) {
	var l Limits
	err := c.call(ctx, http.MethodGet, "/limits", nil, nil, &l)
	return l, err
}

// SetLimits implements Limiter.
func (c *Client) SetLimits(ctx context.Context, req LimitsRequest) (Limits, error) {
	var l Limits
	err := c.call(ctx, http.MethodPost, "/limits", nil, req, &l)
	return l, err
}
