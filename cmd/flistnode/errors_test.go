package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

func TestExitCodesAreAsDocumented(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("do something: %w", err) }
	wire := func(c api.Code) error { return &api.Error{Code: c, Message: "from afar"} }
	tests := []struct {
		err  error
		want int
	}{
		{errors.New("anything"), exitError},
		{syscall.ENOSPC, exitError},
		{wire(api.Unreadable), exitError},
		{wire(api.NoDaemon), exitError},
		{usagef("wrong"), exitUsage},
		{settingf("wrong"), exitUsage},
		{wire(api.Invalid), exitUsage},
		{chunk.ErrNotFound, exitNotFound},
		{fs.ErrNotExist, exitNotFound},
		{wire(api.NotFound), exitNotFound},
		{wire(api.Timeout), exitNotFound},
		{&chunk.CorruptError{}, exitCorrupt},
		{wire(api.Corrupt), exitCorrupt},
		{wire(api.Version), exitCorrupt},
		{wire(api.NotFlist), exitCorrupt},
		{wire(api.InUse), exitBusy},
		{wire(api.Busy), exitBusy},
		{errDifferent, exitDifference},
		{withHint(chunk.ErrNotFound, "look elsewhere"), exitNotFound},
	}
	for _, tt := range tests {
		if got := exitCode(wrap(tt.err)); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.want)
		}
	}
	for _, code := range []int{exitOK, exitError, exitUsage, exitNotFound, exitCorrupt, exitBusy, exitDifference, exitInterrupted, exitUnread} {
		if !strings.Contains(exitCodesHelp, fmt.Sprintf("\n    %-3d  ", code)) {
			t.Errorf("help does not mention exit code %d", code)
		}
	}
}

func TestReportKeepsToOneLineAndOneHint(t *testing.T) {
	var b bytes.Buffer
	err := fmt.Errorf("one\ntwo\x1b[31m: %w", api.ErrInUse)
	if code := report(context.Background(), &b, err); code != exitBusy {
		t.Errorf("exit code %d, want %d", code, exitBusy)
	}
	want := "flistnode: one; two?[31m: " + api.ErrInUse.Error() + "\n  " + hints[api.InUse] + "\n"
	if b.String() != want {
		t.Errorf("reported %q, want %q", b.String(), want)
	}
}

func TestAnInterruptHidesTheErrorsItCausesAndNoOther(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(&interruptError{signal: syscall.SIGINT})
	tests := []struct {
		err  error
		want string
	}{
		{fmt.Errorf("pack: %w", context.Cause(ctx)), "flistnode: interrupted by ctrl-C\n"},
		{fmt.Errorf("pack: %w", context.Canceled), "flistnode: interrupted by ctrl-C\n"},
		{errors.New("disk on fire"), "flistnode: disk on fire\nflistnode: interrupted by ctrl-C\n"},
	}
	for _, tt := range tests {
		var b bytes.Buffer
		if code := report(ctx, &b, tt.err); code != exitInterrupted {
			t.Errorf("%v: exit code %d, want %d", tt.err, code, exitInterrupted)
		}
		if b.String() != tt.want {
			t.Errorf("%v: reported %q, want %q", tt.err, b.String(), tt.want)
		}
	}
}

func TestTheManualListsTheSameExitCodes(t *testing.T) {
	manual, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^    (\d+) +(.*)$`).FindAllStringSubmatch(exitCodesHelp, -1)
	if len(lines) != 9 {
		t.Fatalf("help lists %d exit codes, want 9", len(lines))
	}
	for _, l := range lines {
		if row := fmt.Sprintf("| %s | %s |\n", l[1], l[2]); !strings.Contains(string(manual), row) {
			t.Errorf("docs/commands.md has no row %q", row)
		}
	}
}
