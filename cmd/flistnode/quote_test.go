package main

import (
	"strconv"
	"testing"
)

func TestQuoteKeepsPlainNamesAndEscapesTheRest(t *testing.T) {
	tests := map[string]string{
		"etc/passwd":      "etc/passwd",
		"grün 雪":          "grün 雪",
		"a b":             "a b",
		"":                `""`,
		"a\nb":            `"a\nb"`,
		"\x1b[31mred":     `"\x1b[31mred"`,
		"caf\xe9":         `"caf\xe9"`,
		`"x"`:             `"\"x\""`,
		`a\b`:             `"a\\b"`,
		"evil\u202egpj":   `"evil\u202egpj"`,
		"no\u00a0break":   `"no\u00a0break"`,
		"\u009b31m":       `"\u009b31m"`,
		"nul\x00":         `"nul\x00"`,
		"tab\tseparated":  `"tab\tseparated"`,
		"quote'and space": "quote'and space",
	}
	for name, want := range tests {
		got := quote(name)
		if got != want {
			t.Errorf("quote(%q) = %s, want %s", name, got, want)
		}
		if got == name {
			continue
		}
		if back, err := strconv.Unquote(got); err != nil || back != name {
			t.Errorf("quote(%q) does not lead back: %q, %v", name, back, err)
		}
	}
}
