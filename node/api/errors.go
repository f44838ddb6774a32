package api

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"syscall"

	"github.com/flistnode/flistnode/flist"
	"github.com/flistnode/flistnode/flist/chunk"
)

// Code names a kind of error on the wire.
type Code string

// The codes. Whatever fits none of them is Internal.
const (
	Internal   Code = "internal"
	Invalid    Code = "invalid"     // the request makes no sense
	NotFound   Code = "not_found"   // a chunk or flist nobody asked has
	NoEntry    Code = "no_entry"    // no such file or directory
	Exists     Code = "exists"      // something is there already
	Permission Code = "permission"  // the node may not do it
	Corrupt    Code = "corrupt"     // bytes are not what they claim to be
	InUse      Code = "in_use"      // the data directory belongs to another process
	Busy       Code = "busy"        // a mount that is in use, or too much at once
	NoSpace    Code = "no_space"    // the disk is full
	Canceled   Code = "canceled"    // whoever asked went away, or the node is stopping
	Timeout    Code = "timeout"     // it took longer than allowed
	NoDaemon   Code = "no_daemon"   // nobody listens on the control socket
	Unreadable Code = "unreadable"  // files to pack could not be read
	Version    Code = "new_version" // an flist of a newer format version
	NotFlist   Code = "not_flist"   // a CID or a file of something else
)

// Sentinels for codes that have none elsewhere.
var (
	ErrInvalid    = errors.New("invalid request")
	ErrCorrupt    = errors.New("corrupt data")
	ErrInUse      = errors.New("data directory is in use")
	ErrBusy       = errors.New("busy")
	ErrNoDaemon   = errors.New("no daemon is running")
	ErrUnreadable = errors.New("files could not be read")
	ErrVersion    = errors.New("newer format version")
)

// sentinels is the one table between errors and codes. CodeOf takes the first
// line that fits.
var sentinels = []struct {
	code   Code
	err    error
	status int
}{
	{NotFlist, flist.ErrNotFlist, http.StatusUnprocessableEntity},
	{Corrupt, ErrCorrupt, http.StatusUnprocessableEntity},
	{Version, ErrVersion, http.StatusUnprocessableEntity},
	{Unreadable, ErrUnreadable, http.StatusConflict},
	{InUse, ErrInUse, http.StatusConflict},
	{Busy, ErrBusy, http.StatusConflict},
	{Busy, syscall.EBUSY, http.StatusConflict},
	{NoSpace, syscall.ENOSPC, http.StatusInsufficientStorage},
	{NoSpace, syscall.EDQUOT, http.StatusInsufficientStorage},
	{Invalid, ErrInvalid, http.StatusBadRequest},
	{NoDaemon, ErrNoDaemon, http.StatusServiceUnavailable},
	{NotFound, chunk.ErrNotFound, http.StatusNotFound},
	{NoEntry, fs.ErrNotExist, http.StatusNotFound},
	{Exists, fs.ErrExist, http.StatusConflict},
	{Exists, syscall.ENOTEMPTY, http.StatusConflict},
	{Permission, fs.ErrPermission, http.StatusForbidden},
	{Timeout, context.DeadlineExceeded, http.StatusGatewayTimeout},
	{Canceled, context.Canceled, http.StatusServiceUnavailable},
}

// Error is an error that crossed the control socket. It matches (errors.Is)
// the sentinel of its code.
type Error struct {
	Code     Code      `json:"code"`
	Message  string    `json:"message"`
	Problems []Problem `json:"problems,omitempty"` // the paths it is about, at most MaxListed
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the sentinel of e's code, or nil.
func (e *Error) Unwrap() error {
	for _, s := range sentinels {
		if s.code == e.Code {
			return s.err
		}
	}
	return nil
}

// WithCode returns err with the code it shall have on the wire, for errors of
// packages that know nothing of codes. It also matches the code's sentinel.
func WithCode(code Code, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code: code, err: err}
}

// WithProblems is WithCode for an error about several paths, which it names in
// list. The list is not modified.
func WithProblems(code Code, err error, list []Problem) error {
	return &codedError{code: code, err: err, problems: list[:min(len(list), MaxListed)]}
}

// ProblemsOf returns the paths err is about, one by one, if it has such a list.
func ProblemsOf(err error) []Problem {
	var wire *Error
	var coded *codedError
	switch {
	case errors.As(err, &wire):
		return wire.Problems
	case errors.As(err, &coded):
		return coded.problems
	}
	return nil
}

type codedError struct {
	code     Code
	err      error
	problems []Problem
}

func (e *codedError) Error() string { return e.err.Error() }

func (e *codedError) Unwrap() []error {
	return []error{e.err, (&Error{Code: e.code}).Unwrap()}
}

// CodeOf returns the code of err, which may have crossed the socket or not.
func CodeOf(err error) Code {
	var wire *Error
	var coded *codedError
	var corrupt *chunk.CorruptError
	var format *flist.FormatError
	var version *flist.VersionError
	switch {
	case errors.As(err, &wire):
		return wire.Code
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &version):
		return Version
	case errors.As(err, &format), errors.As(err, &corrupt) && !errors.Is(err, chunk.ErrNotFound):
		return Corrupt
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return s.code
		}
	}
	return Internal
}

// wireError returns err in the form in which it crosses the socket.
func wireError(err error) *Error {
	return &Error{Code: CodeOf(err), Message: err.Error(), Problems: ProblemsOf(err)}
}

func httpStatus(c Code) int {
	for _, s := range sentinels {
		if s.code == c {
			return s.status
		}
	}
	return http.StatusInternalServerError
}
