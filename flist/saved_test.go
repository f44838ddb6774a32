package flist

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/flist/chunk"
)

// saved loads an image and returns what Save writes of it.
func saved(t *testing.T, m chunks, c cid.Cid) []byte {
	t.Helper()
	im, err := Load(t.Context(), m, c)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	var b bytes.Buffer
	if err := im.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSavedTablesAreThoseThatWereLoaded(t *testing.T) {
	c, m := manyNames(t)
	loaded, err := Load(t.Context(), m, c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "saved")
	if err := os.WriteFile(path, saved(t, m, c), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := chunk.FromCID(c)
	if err != nil {
		t.Fatal(err)
	}
	im, err := LoadSaved(t.Context(), chunks{id: m[id]}, c, path) // needs the root block alone
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if !bytes.Equal(loaded.mem.b, im.mem.b) {
		t.Error("tables differ")
	}
	use(t, im)
	for i := range loaded.NumInodes() {
		ino := Inode(i)
		if a, b := loaded.Attr(ino), im.Attr(ino); a != b {
			t.Fatalf("inode %d: %+v, was %+v", i, b, a)
		}
		for name, value := range loaded.Xattrs(ino) {
			if got, ok := im.Xattr(ino, name); !ok || !bytes.Equal(got, value) {
				t.Fatalf("inode %d: xattr %s is %q, was %q", i, name, got, value)
			}
		}
	}
	if maps, fds := mappings(t), descriptors(t); maps+fds > 0 {
		t.Errorf("%d mappings and %d files of other loads are left", maps, fds)
	}
}

// TestSavedTablesThatChangedAreRefused damages the file in every block, and
// otherwise.
func TestSavedTablesThatChangedAreRefused(t *testing.T) {
	c, m := manyNames(t)
	good := saved(t, m, c)
	size := len(good) - len(good)%savedBlock
	changes := map[string]func(b []byte) []byte{
		"cut short":       func(b []byte) []byte { return b[:len(b)-1] },
		"longer":          func(b []byte) []byte { return append(b, 0) },
		"empty":           func([]byte) []byte { return nil },
		"zeros at end":    func(b []byte) []byte { clear(b[size:]); return b },
		"other version":   func(b []byte) []byte { return bytes.Replace(b, []byte(savedMagic), []byte("flist tables 000"), 1) },
		"other flist":     func(b []byte) []byte { b[bytes.Index(b, []byte(savedMagic))+len(savedMagic)]++; return b },
		"other checksum":  func(b []byte) []byte { b[len(b)-1]++; return b },
		"last table byte": func(b []byte) []byte { b[bytes.Index(b, []byte(savedMagic))-1] ^= 1; return b },
	}
	for off := 0; off < size; off += savedBlock {
		changes["bit in block "+string(rune('0'+off/savedBlock))] = func(b []byte) []byte { b[off+off/7%savedBlock] ^= 0x10; return b }
	}
	dir := t.TempDir()
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			im, err := LoadSaved(t.Context(), m, c, path)
			if err == nil {
				im.Close()
			}
			if !errors.Is(err, ErrSaved) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("LoadSaved: %v", err)
			}
		})
	}
	if _, err := LoadSaved(t.Context(), m, c, filepath.Join(dir, "none")); !errors.Is(err, ErrSaved) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(maps, []byte(dir)) {
		t.Error("a refused file is left mapped")
	}
}

// TestWhatIsSavedChangesWithItsVersion fails when the same flist gives other
// saved bytes. Then give savedMagic another number, or nodes will take what
// older ones have written for what they mean, and put the new digest here.
func TestWhatIsSavedChangesWithItsVersion(t *testing.T) {
	const want = "7fca71349eba13910ab4426d4b01d79d06e854cd537304d419016d627141aa40"
	c, m := manyNames(t)
	sum := sha256.Sum256(saved(t, m, c))
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("%s with digest %s, was %s", savedMagic, got, want)
	}
}

// TestAPageThatIsGoneIsAnError cuts the file under a mapping, so that its pages
// are faults.
func TestAPageThatIsGoneIsAnError(t *testing.T) {
	c, m := manyNames(t)
	path := filepath.Join(t.TempDir(), "saved")
	if err := os.WriteFile(path, saved(t, m, c), 0o600); err != nil {
		t.Fatal(err)
	}
	im, err := LoadSaved(t.Context(), m, c, path)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	err = Guard(func() error {
		im.Attr(400)
		return nil
	})
	if !errors.Is(err, ErrTablePage) {
		t.Errorf("look-up: %v", err)
	}
	if err := im.Save(&bytes.Buffer{}); !errors.Is(err, ErrTablePage) && !errors.Is(err, unix.EFAULT) {
		t.Errorf("Save: %v", err)
	}
	if err := Guard(func() error { return errors.ErrUnsupported }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("another error: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("another panic was held back")
		}
	}()
	_ = Guard(func() error { panic("other") })
}
