package main

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
)

func TestModeStringIsAsLsShowsIt(t *testing.T) {
	tests := []struct {
		kind string
		mode uint32
		want string
	}{
		{api.TypeFile, 0o644, "-rw-r--r--"},
		{api.TypeDir, 0o755, "drwxr-xr-x"},
		{api.TypeSymlink, 0o777, "lrwxrwxrwx"},
		{api.TypeFIFO, 0, "p---------"},
		{api.TypeSocket, 0o600, "srw-------"},
		{api.TypeChar, 0o20, "c----w----"},
		{api.TypeBlock, 0o1, "b--------x"},
		{api.TypeFile, 0o4755, "-rwsr-xr-x"},
		{api.TypeFile, 0o4644, "-rwSr--r--"},
		{api.TypeFile, 0o2755, "-rwxr-sr-x"},
		{api.TypeFile, 0o2745, "-rwxr-Sr-x"},
		{api.TypeDir, 0o1777, "drwxrwxrwt"},
		{api.TypeDir, 0o1776, "drwxrwxrwT"},
		{"of the future", 0o7777, "?rwsrwsrwt"},
	}
	for _, tt := range tests {
		if got := modeString(api.Entry{Type: tt.kind, Mode: tt.mode}); got != tt.want {
			t.Errorf("%s %04o: %s, want %s", tt.kind, tt.mode, got, tt.want)
		}
	}
}

func TestADeviceShowsItsNumbersInPlaceOfASize(t *testing.T) {
	e := api.Entry{Type: api.TypeChar, Rdev: unix.Mkdev(5, 70000), Size: 0}
	if got := sizeOrDevice(e); got != "5, 70000" {
		t.Errorf("device is %s", got)
	}
	if got := sizeOrDevice(api.Entry{Type: api.TypeFile, Size: 1 << 40}); got != "1099511627776" {
		t.Errorf("size is %s", got)
	}
}

func TestBaseName(t *testing.T) {
	for path, want := range map[string]string{"/": "/", "/a": "a", "/a/b\n": "b\n", "": "/"} {
		if got := baseName(path); got != want {
			t.Errorf("baseName(%q) = %q, want %q", path, got, want)
		}
	}
}
