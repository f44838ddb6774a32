package mount_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/flistnode/flistnode/mount"
)

func TestVirtiofsSocketOfOthersIsLeftAlone(t *testing.T) {
	m := newMemory()
	im, _, _ := twoFiles(t, m)
	dir := t.TempDir()
	file, busy := filepath.Join(dir, "file"), filepath.Join(dir, "busy")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, socket := range []string{file, busy} {
		if err := mount.ServeVirtiofs(context.Background(), im, m, socket, mount.Options{}); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: %v", socket, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("the file: %q, %v", b, err)
	}
}
