package testnet

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// MakeContent fills the new directory dir with size bytes that cannot be
// compressed, in files of fileSize bytes called file-0000, file-0001 ... The
// same seed gives the same bytes.
func MakeContent(dir string, size, fileSize int64, seed uint64) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("testnet: make content: %w", err)
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	random := rand.NewChaCha8(key)
	for i := 0; size > 0; i++ {
		n := min(size, fileSize)
		if err := writeFile(filepath.Join(dir, fmt.Sprintf("file-%04d", i)), random, n); err != nil {
			return fmt.Errorf("testnet: make content: %w", err)
		}
		size -= n
	}
	return nil
}

func writeFile(path string, r io.Reader, size int64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	_, err = io.CopyN(f, r, size)
	return err
}
