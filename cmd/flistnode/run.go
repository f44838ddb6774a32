package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// run runs one command line and returns its exit code. It is main without the
// process around it.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := withSignals(context.Background(), stderr)
	defer stop()

	stdout = &output{stdout}
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !a.started {
		// Cobra has refused the command line, or the settings are wrong.
		err = usageError(plainValue(err), cmd)
	}
	return report(ctx, stderr, err)
}

// output marks the error of a reader that went away, so that it can be told
// from a node that did.
type output struct{ w io.Writer }

var errOutputClosed = errors.New("nobody reads the output any more")

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = errOutputClosed
	}
	return n, err
}

// withSignals returns a context that the first SIGINT, SIGTERM or SIGHUP
// cancels. The second ends the process at once. The returned function stops the
// watching.
func withSignals(parent context.Context, stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup wants it
		signal.Notify(signals, syscall.SIGHUP)
	}
	// A node must not die, and leave its mounts behind, because nobody reads
	// its output: the write fails instead. The signal is caught rather than
	// ignored, since children inherit only the latter.
	unread := make(chan os.Signal, 1)
	signal.Notify(unread, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case s := <-signals:
				if n > 0 {
					fmt.Fprintln(stderr, "flistnode: stopped at once")
					os.Exit(exitInterrupted)
				}
				cancel(&interruptError{signal: s})
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(unread)
		close(done)
		cancel(nil)
	}
}

// interruptError says which signal ended a command.
type interruptError struct{ signal os.Signal }

func (e *interruptError) Error() string {
	if e.signal == syscall.SIGINT {
		return "interrupted by ctrl-C"
	}
	if s, ok := e.signal.(syscall.Signal); ok {
		return "interrupted by " + unix.SignalName(s)
	}
	return "interrupted by signal " + e.signal.String()
}

// interrupted reports whether a signal has asked the command to stop.
func interrupted(ctx context.Context) bool {
	var i *interruptError
	return errors.As(context.Cause(ctx), &i)
}

// wasCanceled reports whether err says no more than that the command was asked
// to stop.
func wasCanceled(err error) bool {
	var i *interruptError
	return err == nil || errors.Is(err, context.Canceled) || errors.As(err, &i)
}
