package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The exit codes, as "flistnode help exit-codes" and docs/operations.md list
// them.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitCorrupt     = 4
	exitBusy        = 5
	exitDifference  = 6
	exitInterrupted = 130
)

// failure is an error whose exit code or hint is known where it arises.
type failure struct {
	err  error
	code int
	hint string // what to do about it, or nothing
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usageError marks err as a fault of the command line or the settings.
func usageError(err error) error {
	var f *failure
	if errors.As(err, &f) {
		return err
	}
	return &failure{err: err, code: exitUsage}
}

func usagef(format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), code: exitUsage}
}

// withHint adds what to do to err.
func withHint(err error, hint string) error {
	return &failure{err: err, code: exitCode(err), hint: hint}
}

// errDifferent ends a command that found a difference and has already printed
// it.
var errDifferent = &failure{err: errors.New("something differs"), code: exitDifference}

// report prints err on one line, what to do about it on the next, and returns
// the exit code.
func report(ctx context.Context, stderr io.Writer, err error) int {
	if interrupted(ctx) {
		fmt.Fprintf(stderr, "flistnode: %v\n", context.Cause(ctx))
		return exitInterrupted
	}
	if err == errDifferent {
		return exitDifference
	}
	fmt.Fprintf(stderr, "flistnode: %s\n", oneLine(err.Error()))
	if h := hintFor(err); h != "" {
		fmt.Fprintf(stderr, "  %s\n", h)
	}
	return exitCode(err)
}

// oneLine keeps a message on one line and free of what could upset a terminal,
// since part of it may come from a peer or a file.
func oneLine(msg string) string {
	msg = strings.TrimSpace(msg)
	msg = strings.NewReplacer("\r\n", "; ", "\n\n", "; ", "\n\t", " ", "\n", "; ", "\t", " ").Replace(msg)
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, msg)
}
