package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"
)

func TestLinesKeepsWhatWasPrintedBeforeAnError(t *testing.T) {
	broken := errors.New("broken")
	each := func(print func(int) error) error {
		for i := range 2 {
			if err := print(i); err != nil {
				return err
			}
		}
		return broken
	}
	human := func(w io.Writer, v int) error { _, err := fmt.Fprintln(w, "number", v); return err }
	for json, want := range map[bool]string{false: "number 0\nnumber 1\n", true: "0\n1\n"} {
		var b bytes.Buffer
		err := lines(&app{stdout: &b, json: json}, human, each)
		if !errors.Is(err, broken) || b.String() != want {
			t.Errorf("json %v: %q, %v; want %q, %v", json, b.String(), err, want, broken)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{size(0), "0 B"},
		{size(uint64(1536)), "1.5 KiB"},
		{size(int64(-1)), "unknown"},
		{count(1234567), "1,234,567"},
		{share(1, 3), "33.3 %"},
		{share(0, 0), "100 %"},
		{share(uint64(2999999), uint64(3000000)), "99.9 %"},
		{duration(1234 * time.Microsecond), "1.23ms"},
		{duration(12345 * time.Millisecond), "12.35s"},
		{duration(125 * time.Second), "2m5s"},
		{seconds(0.5), "500ms"},
		{when(time.Time{}), "-"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}
