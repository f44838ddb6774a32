package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// A long operation answers with one JSON object a line. Any number of
// progress and item events come first; one result or error event ends the
// stream. A stream that ends without it was cut off.
type event struct {
	Progress json.RawMessage `json:"progress,omitempty"` // how far it is; only the newest matters
	Item     json.RawMessage `json:"item,omitempty"`     // a part of the answer
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *Error          `json:"error,omitempty"`
}

const (
	contentEvents = "application/x-ndjson"
	maxEvent      = 16 << 20               // bytes a client accepts as one line
	progressEvery = 100 * time.Millisecond // at most one progress event in this time
)

// eventWriter writes events to an HTTP answer. It may be used from several
// goroutines.
type eventWriter struct {
	mu   sync.Mutex
	w    *bufio.Writer
	rc   *http.ResponseController
	last time.Time // of the last flush
}

func newEventWriter(w http.ResponseWriter) *eventWriter {
	w.Header().Set("Content-Type", contentEvents)
	return &eventWriter{w: bufio.NewWriterSize(w, 32<<10), rc: http.NewResponseController(w)}
}

// progress sends v unless something was sent a moment ago. A failing
// connection is seen by the request's context.
func (e *eventWriter) progress(v any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.last) < progressEvery {
		return
	}
	if e.write(struct {
		Progress any `json:"progress"`
	}{v}) == nil {
		_ = e.flush()
	}
}

// item sends v as a part of the answer; it may stay in the buffer a moment.
func (e *eventWriter) item(v any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.write(struct {
		Item any `json:"item"`
	}{v}); err != nil {
		return err
	}
	if time.Since(e.last) < progressEvery {
		return nil
	}
	return e.flush()
}

// end sends the last event.
func (e *eventWriter) end(result any, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		err = e.write(event{Error: wireError(err)})
	} else {
		err = e.write(struct {
			Result any `json:"result"`
		}{result})
	}
	if err == nil {
		_ = e.flush()
	}
}

func (e *eventWriter) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	_, err = e.w.Write(append(b, '\n'))
	return err
}

func (e *eventWriter) flush() error {
	e.last = time.Now()
	if err := e.w.Flush(); err != nil {
		return err
	}
	return e.rc.Flush()
}

// readEvents reads a stream of events to its end: progress and item events go
// to on, the result into result (which may be nil).
func readEvents(ctx context.Context, r io.Reader, result any, on func(event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	for lines.Scan() {
		var ev event
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			return fmt.Errorf("read answer of the node: %w", err)
		}
		switch {
		case ev.Error != nil:
			return ev.Error
		case ev.Result != nil:
			if result == nil {
				return nil
			}
			return json.Unmarshal(ev.Result, result)
		}
		if err := on(ev); err != nil {
			return err
		}
	}
	return cutOff(ctx, lines.Err())
}

// cutOff says why an answer ended before its end.
func cutOff(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the node went away before it had finished: %w", err)
	}
	return fmt.Errorf("read answer of the node: %w", err)
}
