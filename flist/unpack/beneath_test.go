package unpack

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenBeneathFollowsNothing(t *testing.T) {
	root := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "a/b"), 0o755),
		os.Symlink("a", filepath.Join(root, "inside")),
		os.Symlink("/", filepath.Join(root, "outside")),
		os.WriteFile(filepath.Join(root, "file"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := openat(unix.AT_FDCWD, root, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for path, ok := range map[string]bool{
		"/": true, "": true, "/a": true, "/a/b": true, "a/b/": true,
		"/inside/b": false, "/outside": false, "/outside/etc": false, "/a/b/../../..": false, "/..": false, "/file": false, "/none": false,
	} {
		got, err := openBeneath(fd, []byte(path))
		if err == nil {
			unix.Close(got)
		}
		if (err == nil) != ok {
			t.Errorf("openBeneath(%q): %v", path, err)
		}
	}
	for part, ok := range map[string]bool{"a": true, "inside": false, "..": false, "a/b": false, "": false, "outside": false} {
		got, err := stepBeneath(fd, part, true)
		if err == nil {
			unix.Close(got)
		}
		if (err == nil) != ok {
			t.Errorf("one component %q: %v", part, err)
		}
	}
}

func TestFirstPartSplitsAtComponents(t *testing.T) {
	name := strings.Repeat("n", 255)
	path := []byte(strings.Repeat(name+"/", 40) + "end")
	var rest []byte
	for rest = path; len(rest) > maxPath; {
		n := firstPart(rest, false)
		if n > maxPath || rest[n] != '/' || n < maxPath-256 {
			t.Fatalf("first part of %d bytes is %d, followed by %q", len(rest), n, rest[n])
		}
		rest = rest[n+1:]
	}
	if n := firstPart(rest, false); n != len(rest) {
		t.Errorf("a path of %d bytes is cut at %d", len(rest), n)
	}
	if n := firstPart(path, true); n != 255 {
		t.Errorf("the first component ends at %d, want 255", n)
	}
}

func TestCheckNameRefusesWhatLeadsOut(t *testing.T) {
	for _, name := range []string{"", ".", "..", "/", "a/b", "../x", "a\x00"} {
		if err := checkName([]byte(name)); !errors.Is(err, unix.EINVAL) {
			t.Errorf("checkName(%q) = %v", name, err)
		}
	}
	for _, name := range []string{"...", "..a", "\xff", " "} {
		if err := checkName([]byte(name)); err != nil {
			t.Errorf("checkName(%q) = %v", name, err)
		}
	}
}
