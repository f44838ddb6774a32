package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

const (
	prefix       = "/v1"
	maxRequest   = 1 << 20 // bytes of a JSON request
	errorTrailer = "Flistnode-Error"
)

// Handler serves the control interface of s.
func Handler(s Service) http.Handler {
	h := handler{s}
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /pack":           h.pack,
		"POST /import":         h.importFile,
		"POST /fetch":          h.fetch,
		"POST /unpack":         h.unpack,
		"GET /export":          h.export,
		"POST /list":           h.list,
		"GET /stat":            h.stat,
		"GET /chunk":           h.chunk,
		"GET /cat":             h.cat,
		"POST /diff":           h.diff,
		"GET /inspect":         h.inspect,
		"POST /verify":         h.verify,
		"POST /mount":          h.mount,
		"POST /unmount":        h.unmount,
		"GET /mounts":          h.mounts,
		"GET /profile":         h.profile,
		"POST /profile/record": h.recordProfile,
		"POST /profile/drop":   h.dropProfile,
		"GET /flists":          h.flists,
		"POST /remove":         h.remove,
		"GET /status":          h.status,
		"GET /peers":           h.peers,
		"GET /id":              h.id,
		"GET /why":             h.why,
		"POST /replicate":      h.replicate,
		"GET /replications":    h.replications,
		"POST /replicate/stop": h.stopReplicating,
		"GET /limits":          h.limits,
		"POST /limits":         h.setLimits,
	} {
		mux.HandleFunc(withPrefix(pattern), func(w http.ResponseWriter, r *http.Request) {
			if err := serve(w, r); err != nil {
				refuse(w, err)
			}
		})
	}
	return mux
}

// withPrefix turns "GET /x" into "GET /v1/x".
func withPrefix(pattern string) string {
	for i := range pattern {
		if pattern[i] == ' ' {
			return pattern[:i+1] + prefix + pattern[i+1:]
		}
	}
	return prefix + pattern
}

// refuse answers with err, when nothing has been answered yet.
func refuse(w http.ResponseWriter, err error) {
	wire := wireError(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus(wire.Code))
	_ = json.NewEncoder(w).Encode(wire) // a client that went away needs no answer
}

// answer answers with v, unless err says why not.
func answer(w http.ResponseWriter, v any, err error) error {
	if err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n'))
	return nil
}

// readJSON reads a request of bounded size; keys it does not know are refused.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one JSON value", ErrInvalid)
	}
	return nil
}

// flag returns a boolean of the query; one that is missing is false.
func flag(q url.Values, name string) (bool, error) {
	s := q.Get(name)
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%w: %s=%q is neither true nor false", ErrInvalid, name, s)
	}
	return b, nil
}

// contentWriter sends bytes as an answer. The status goes out with the first
// byte, so that an earlier failure is an ordinary error.
type contentWriter struct {
	w       http.ResponseWriter
	started bool
}

func (c *contentWriter) start() {
	if c.started {
		return
	}
	c.started = true
	c.w.Header().Set("Content-Type", "application/octet-stream")
	c.w.Header().Set("Trailer", errorTrailer)
	c.w.WriteHeader(http.StatusOK)
}

func (c *contentWriter) Write(p []byte) (int, error) {
	c.start()
	return c.w.Write(p)
}

// end closes the answer; an error after the first byte goes into the trailer.
func (c *contentWriter) end(err error) error {
	if err != nil && !c.started {
		return err
	}
	c.start()
	if err != nil {
		if b, jerr := json.Marshal(wireError(err)); jerr == nil {
			c.w.Header().Set(errorTrailer, url.PathEscape(string(b))) // a header takes few characters
		}
	}
	return nil
}
