package pack

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Both ways of opening a directory by its path refuse links on the way.
func TestOpenBelowFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/a/b/c", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b", dir+"/a/link"); err != nil {
		t.Fatal(err)
	}
	base, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(base)
	for name, open := range map[string]func(string) (int, error){
		"openat2": func(path string) (int, error) { return openBelow(base, path) },
		"openat": func(path string) (int, error) {
			return openSteps(base, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		},
	} {
		fd, err := open("a/b/c")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			unix.Close(fd)
		}
		for _, path := range []string{"a/link/c", "a/b/nowhere", "a/link"} {
			if fd, err := open(path); err == nil {
				unix.Close(fd)
				t.Errorf("%s opened %s", name, path)
			}
		}
	}
}
