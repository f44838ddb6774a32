package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flistnode/flistnode/node/api"
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
	exitUnread      = 141
)

// failure is an error whose exit code or hint is known where it arises.
type failure struct {
	err  error
	code int
	hint string // what to do about it, or nothing
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usageError marks err as a fault of the command line of cmd or the settings.
func usageError(err error, cmd *cobra.Command) error {
	hint := fmt.Sprintf("\"%s help\" lists the commands.", cmd.Root().Name())
	if cmd.HasParent() {
		hint = fmt.Sprintf("\"%s %s --help\" shows the usage.", cmd.Root().Name(), strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" "))
	}
	var f *failure
	if errors.As(err, &f) {
		if f.hint != "" {
			return err
		}
		return &failure{err: err, code: f.code, hint: hint}
	}
	return &failure{err: err, code: exitUsage, hint: hint}
}

func settingf(format string, args ...any) error { return settingError(fmt.Errorf(format, args...)) }

// settingError marks err as a fault of a setting, wherever that came from.
func settingError(err error) error {
	msg := strings.TrimPrefix(err.Error(), api.ErrInvalid.Error()+": ")
	return &failure{err: errors.New(msg), code: exitUsage, hint: "\"flistnode help settings\" tells where settings come from."}
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

// plainValue puts errors of parsing a flag or a setting into words.
func plainValue(err error) error {
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		return fmt.Errorf("--%s %s: %w", value.GetFlag().Name, quote(value.GetValue()), plainValue(errors.Unwrap(value)))
	}
	var number *strconv.NumError
	switch {
	case !errors.As(err, &number):
		return err
	case number.Func == "ParseBool":
		return errors.New("want true or false")
	case errors.Is(number, strconv.ErrRange):
		return errors.New("the number is too large")
	default:
		return errors.New("want a number")
	}
}

// report prints err on one line, what to do about it on the next, and returns
// the exit code.
func report(ctx context.Context, stderr io.Writer, err error) int {
	if interrupted(ctx) {
		if !wasCanceled(err) {
			fmt.Fprintf(stderr, "flistnode: %s\n", oneLine(err.Error()))
		}
		fmt.Fprintf(stderr, "flistnode: %v\n", context.Cause(ctx))
		return exitInterrupted
	}
	switch {
	case errors.Is(err, errDifferent):
		return exitDifference
	case errors.Is(err, errOutputClosed):
		return exitUnread
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
	msg = strings.TrimPrefix(strings.TrimSpace(msg), api.ErrInvalid.Error()+": ") // the rest says what is invalid
	msg = strings.NewReplacer("\r\n", "; ", "\n\n", "; ", "\n\t", " ", "\n", "; ", "\t", " ").Replace(msg)
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, msg)
}

// exitCode returns the exit code err asks for.
func exitCode(err error) int {
	var f *failure
	if errors.As(err, &f) {
		return f.code
	}
	switch api.CodeOf(err) {
	case api.Invalid:
		return exitUsage
	case api.NotFound, api.NoEntry, api.Timeout:
		return exitNotFound
	case api.Corrupt, api.Version, api.NotFlist:
		return exitCorrupt
	case api.InUse, api.Busy:
		return exitBusy
	default:
		return exitError
	}
}

// hints say what to do about an error, by its code.
var hints = map[api.Code]string{
	api.NotFound:   "Is a node that holds it running and reachable? See \"flistnode peers\"; --peer ADDR names one.",
	api.InUse:      "Give the daemon's socket with --api, stop that process, or use another --data.",
	api.NoDaemon:   "Start one with \"flistnode daemon\", or name its socket with --api.",
	api.NoSpace:    "Nothing is lost: make room, and run the command again.",
	api.Unreadable: "Run with the rights to read them, leave them out by --exclude, or use --ignore-unreadable.",
	api.NotFlist:   "An flist's CID begins with bafy, and \"flistnode pack -o FILE.flist\" writes the file.",
	api.Version:    "Use a flistnode at least as new as the one that made it.",
}

// hintFor returns what to do about err, or nothing.
func hintFor(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.hint
	}
	return hints[api.CodeOf(err)]
}
