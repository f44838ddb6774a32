package chunkstore

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a tmpfs of the given size.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill puts chunks until the store refuses one.
func fill(t *testing.T, s *Store) (held []uint64, err error) {
	t.Helper()
	for i := range uint64(10_000) {
		if err := s.Put(t.Context(), chunk.Pack(randomBytes(i, 200_000))); err != nil {
			return held, err
		}
		held = append(held, i)
	}
	t.Fatal("the disk does not get full")
	return nil, nil
}

func wantDiskFull(t *testing.T, err error, dir string) {
	t.Helper()
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("error on a full disk: %v", err)
	}
}

func TestFullDiskIsAnErrorAndTheStoreGoesOn(t *testing.T) {
	disk := smallDisk(t, "size=160m")
	dir := filepath.Join(disk, "store")
	s := openT(t, dir, Options{})
	held, err := fill(t, s)
	wantDiskFull(t, err, dir)
	if len(held) < 200 {
		t.Errorf("only %d chunks of 200 kB fit 160 MiB with a reserve of 64", len(held))
	}

	// Somebody else takes all the rest.
	hog, err := os.Create(filepath.Join(disk, "hog"))
	if err != nil {
		t.Fatal(err)
	}
	defer hog.Close()
	block := make([]byte, 1<<16)
	for err == nil {
		_, err = hog.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	wantDiskFull(t, s.Put(t.Context(), chunk.Pack([]byte("one more"))), dir)
	wantDiskFull(t, s.PutRecord("a", "b", []byte("c")), dir)
	for _, i := range held {
		wantHeld(t, s, randomBytes(i, 200_000))
	}
	closeT(t, s)

	// And again from the start, with what the spare file leaves.
	for err = nil; err == nil; {
		_, err = hog.Write(block)
	}
	if _, err := Open(dir, Options{}); err != nil {
		wantDiskFull(t, err, dir)
	} else {
		t.Error("a store was opened on a full disk")
	}
	if err := hog.Truncate(0); err != nil {
		t.Fatal(err)
	}
	s = openT(t, dir, Options{})
	for _, i := range held {
		wantHeld(t, s, randomBytes(i, 200_000))
	}
	if err := s.Delete(t.Context(), chunk.Sum(randomBytes(held[0], 200_000))); err != nil {
		t.Errorf("delete on a disk with its reserve alone: %v", err)
	}
	closeT(t, s)
}

func TestNoRoomForAStore(t *testing.T) {
	disk := smallDisk(t, "size=1m")
	_, err := Open(disk, Options{})
	wantDiskFull(t, err, disk)
}

func TestNoMoreFilesIsAFullDisk(t *testing.T) {
	disk := smallDisk(t, "size=256m,nr_inodes=128")
	s := openT(t, filepath.Join(disk, "store"), Options{})
	putT(t, s, textBytes(5000))
	for i := range 128 {
		f, err := os.Create(filepath.Join(disk, strconv.Itoa(i)))
		if err != nil {
			break
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantDiskFull(t, s.Put(t.Context(), chunk.Pack(textBytes(6000))), disk)
	wantHeld(t, s, textBytes(5000))
}
