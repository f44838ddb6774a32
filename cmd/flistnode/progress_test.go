package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestProgressIsSilentWithoutATerminalUnlessVerbose(t *testing.T) {
	for verbose, want := range map[int]string{0: "", 1: "packing: 512 B of 1.0 KiB (50.0 %), 3 files\n"} {
		var b bytes.Buffer
		a := &app{stderr: &b, verbose: verbose}
		m := a.meter("packing")
		m.update(1, 1024, "too early to tell")
		m.next = time.Now()
		m.update(512, 1024, "3 files")
		m.done()
		if b.String() != want {
			t.Errorf("-v %d: printed %q, want %q", verbose, b.String(), want)
		}
	}
}

func TestProgressWithoutATotal(t *testing.T) {
	var b bytes.Buffer
	m := (&app{stderr: &b, verbose: 1}).meter("packing")
	m.next = time.Now()
	m.update(2048, 0, "7 files")
	if !strings.Contains(b.String(), "packing: 2.0 KiB, 7 files") {
		t.Errorf("printed %q", b.String())
	}
}
