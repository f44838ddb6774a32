package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/ipfs/go-cid"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// handler has one method for each question. A method that returns an error
// has answered nothing yet.
type handler struct{ s Service }

// guard is flist.Guard for what looks into flists: one that cannot be read fails
// one question, not the daemon.
func guard[T any](do func() (T, error)) (out T, err error) {
	err = flist.Guard(func() (err error) {
		out, err = do()
		return err
	})
	return out, err
}

func (h handler) pack(w http.ResponseWriter, r *http.Request) error {
	var req PackRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	q := r.URL.Query()
	req.Dir, req.Exclude = q.Get("dir"), q["exclude"]
	ev := newEventWriter(w)
	res, err := h.s.Pack(r.Context(), req, func(p PackProgress) { ev.progress(p) })
	ev.end(res, err)
	return nil
}

func (h handler) importFile(w http.ResponseWriter, r *http.Request) error {
	ev := newEventWriter(w)
	cid, err := h.s.Import(r.Context(), r.Body)
	ev.end(cid, err)
	return nil
}

func (h handler) fetch(w http.ResponseWriter, r *http.Request) error {
	var req FetchRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	ev := newEventWriter(w)
	res, err := guard(func() (FetchResult, error) {
		return h.s.Fetch(r.Context(), req, func(p FetchProgress) { ev.progress(p) })
	})
	ev.end(res, err)
	return nil
}

func (h handler) unpack(w http.ResponseWriter, r *http.Request) error {
	var req UnpackRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	req.Dir = r.URL.Query().Get("dir")
	ev := newEventWriter(w)
	res, err := guard(func() (UnpackResult, error) {
		return h.s.Unpack(r.Context(), req, func(p UnpackProgress) { ev.progress(p) })
	})
	ev.end(res, err)
	return nil
}

func (h handler) export(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	digests, err1 := flag(q, "digests")
	data, err2 := flag(q, "data")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	out := &contentWriter{w: w}
	return out.end(flist.Guard(func() error { return h.s.Export(r.Context(), q.Get("flist"), digests, data, out) }))
}

func (h handler) list(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	recursive, err1 := flag(q, "recursive")
	digests, err2 := flag(q, "digests")
	self, err3 := flag(q, "self")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	ev := newEventWriter(w)
	err := flist.Guard(func() error {
		return h.s.List(r.Context(), q.Get("flist"), q.Get("path"), ListOptions{Recursive: recursive, Digests: digests, Self: self},
			func(e Entry) error { return ev.item(e) })
	})
	ev.end(struct{}{}, err)
	return nil
}

func (h handler) stat(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	e, err := guard(func() (Entry, error) { return h.s.Stat(r.Context(), q.Get("flist"), q.Get("path")) })
	return answer(w, e, err)
}

func (h handler) cat(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	out := &contentWriter{w: w}
	return out.end(flist.Guard(func() error { return h.s.Cat(r.Context(), q.Get("flist"), q.Get("path"), out) }))
}

func (h handler) chunk(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	c, err := cid.Decode(q.Get("id"))
	if err != nil {
		return fmt.Errorf("%w: chunk %q: %w", ErrInvalid, q.Get("id"), err)
	}
	id, err := chunk.FromCID(c)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	data, err := h.s.Chunk(r.Context(), q.Get("flist"), id)
	out := &contentWriter{w: w}
	if err == nil {
		_, err = out.Write(data)
	}
	return out.end(err)
}

func (h handler) diff(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	ev := newEventWriter(w)
	err := flist.Guard(func() error {
		return h.s.Diff(r.Context(), q.Get("a"), q.Get("b"), func(c Change) error { return ev.item(c) })
	})
	ev.end(struct{}{}, err)
	return nil
}

func (h handler) inspect(w http.ResponseWriter, r *http.Request) error {
	in, err := guard(func() (Inspection, error) { return h.s.Inspect(r.Context(), r.URL.Query().Get("flist")) })
	return answer(w, in, err)
}

func (h handler) verify(w http.ResponseWriter, r *http.Request) error {
	var req VerifyRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	ev := newEventWriter(w)
	res, err := guard(func() (VerifyResult, error) {
		return h.s.Verify(r.Context(), req, func(p VerifyProgress) { ev.progress(p) })
	})
	ev.end(res, err)
	return nil
}

func (h handler) mount(w http.ResponseWriter, r *http.Request) error {
	var req MountRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	req.Dir, req.Upper = r.URL.Query().Get("dir"), r.URL.Query().Get("upper")
	info, err := guard(func() (MountInfo, error) { return h.s.Mount(r.Context(), req) })
	return answer(w, info, err)
}

func (h handler) unmount(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	force, err := flag(q, "force")
	if err != nil {
		return err
	}
	return answer(w, struct{}{}, h.s.Unmount(r.Context(), q.Get("dir"), force))
}

func (h handler) mounts(w http.ResponseWriter, r *http.Request) error {
	mounts, err := h.s.Mounts(r.Context())
	return answer(w, mounts, err)
}

func (h handler) profile(w http.ResponseWriter, r *http.Request) error {
	p, err := guard(func() (ProfileInfo, error) { return h.s.Profile(r.Context(), r.URL.Query().Get("flist")) })
	return answer(w, p, err)
}

func (h handler) recordProfile(w http.ResponseWriter, r *http.Request) error {
	p, err := guard(func() (ProfileInfo, error) { return h.s.RecordProfile(r.Context(), r.URL.Query().Get("flist")) })
	return answer(w, p, err)
}

func (h handler) dropProfile(w http.ResponseWriter, r *http.Request) error {
	return answer(w, struct{}{}, h.s.DropProfile(r.Context(), r.URL.Query().Get("flist")))
}

func (h handler) flists(w http.ResponseWriter, r *http.Request) error {
	pins, err := h.s.FLists(r.Context())
	return answer(w, pins, err)
}

func (h handler) remove(w http.ResponseWriter, r *http.Request) error {
	return answer(w, struct{}{}, h.s.Remove(r.Context(), r.URL.Query().Get("flist")))
}

func (h handler) status(w http.ResponseWriter, r *http.Request) error {
	s, err := h.s.Status(r.Context())
	return answer(w, s, err)
}

func (h handler) peers(w http.ResponseWriter, r *http.Request) error {
	peers, err := h.s.Peers(r.Context())
	return answer(w, peers, err)
}

func (h handler) id(w http.ResponseWriter, r *http.Request) error {
	id, err := h.s.ID(r.Context())
	return answer(w, id, err)
}

func (h handler) why(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	req := WhyRequest{Chunk: q.Get("chunk"), FList: q.Get("flist"), Path: q.Get("path")}
	res, err := guard(func() (Why, error) { return h.s.Why(r.Context(), req) })
	return answer(w, res, err)
}

func (h handler) replicate(w http.ResponseWriter, r *http.Request) error {
	var req ReplicateRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	ev := newEventWriter(w)
	res, err := guard(func() (Replication, error) {
		return h.s.Replicate(r.Context(), req, func(p Replication) { ev.progress(p) })
	})
	ev.end(res, err)
	return nil
}

func (h handler) replications(w http.ResponseWriter, r *http.Request) error {
	all, err := h.s.Replications(r.Context())
	return answer(w, all, err)
}

func (h handler) stopReplicating(w http.ResponseWriter, r *http.Request) error {
	return answer(w, struct{}{}, h.s.StopReplicating(r.Context(), r.URL.Query().Get("flist")))
}

func (h handler) limits(w http.ResponseWriter, r *http.Request) error {
	l, err := h.s.Limits(r.Context())
	return answer(w, l, err)
}

func (h handler) setLimits(w http.ResponseWriter, r *http.Request) error {
	var req LimitsRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	l, err := h.s.SetLimits(r.Context(), req)
	return answer(w, l, err)
}
