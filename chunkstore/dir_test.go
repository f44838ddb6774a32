package chunkstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestDirectoryOfTheStore(t *testing.T) {
	isNotStore := func(err error) bool { return errors.Is(err, ErrNotStore) }
	isNewer := func(err error) bool { v := (*VersionError)(nil); return errors.As(err, &v) }
	isNil := func(err error) bool { return err == nil }
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  func(error) bool
	}{
		{"empty", nil, isNil},
		{"start cut short", map[string]string{"lock": "1\n", "VERSION.tmp": "fl"}, isNil},
		{"same version", map[string]string{"VERSION": "flistnode store 2\n"}, isNil},
		{"older version", map[string]string{"VERSION": "flistnode store 1\n"}, isNil},
		{"newer version", map[string]string{"VERSION": "flistnode store 3\n"}, isNewer},
		{"version of something else", map[string]string{"VERSION": "3.11\n"}, isNotStore},
		{"empty version", map[string]string{"VERSION": ""}, isNotStore},
		{"other files", map[string]string{"notes.txt": "mine"}, isNotStore},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s, err := Open(dir, Options{})
			if !tc.want(err) {
				t.Fatalf("Open: %v", err)
			}
			if err == nil {
				closeT(t, s)
				got, err := os.ReadFile(filepath.Join(dir, "VERSION"))
				if err != nil || string(got) != "flistnode store 2\n" {
					t.Errorf("VERSION = %q, %v", got, err)
				}
				return
			}
			for name, content := range tc.files {
				if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != content {
					t.Errorf("%s was changed to %q, %v", name, got, err)
				}
			}
		})
	}
}

func TestForeignDirectoryIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrNotStore) {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d entries afterwards, %v", len(entries), err)
	}
}

func TestNewDirectoryIsForItsOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	openT(t, dir, Options{})
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestSecondOpenInOneProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := openT(t, dir, Options{})
	inUse := (*InUseError)(nil)
	if _, err := Open(dir, Options{}); !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("second Open: %v", err)
	}
	closeT(t, s)
	openT(t, dir, Options{})
}
