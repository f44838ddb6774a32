package fabric

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// claim is a locked file that says that the namespaces whose names begin with
// prefix belong to a living process. The lock goes with the process, however
// it ends.
type claim struct {
	file   *os.File
	prefix string
}

const (
	claimDir = "/run/flistnode-testnet"
	netnsDir = "/run/netns"
	mark     = "flistnode-" // what all names of our namespaces begin with
)

var claims atomic.Int64 // made by this process

// newClaim claims a new prefix. Whoever finds the claim without its owner also
// removes dir, unless it is empty.
func newClaim(dir string) (*claim, error) {
	if err := os.MkdirAll(claimDir, 0o755); err != nil {
		return nil, fmt.Errorf("test network: %w", err)
	}
	id := fmt.Sprintf("%d-%d", os.Getpid(), claims.Add(1))
	f, err := os.OpenFile(filepath.Join(claimDir, id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("test network: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	if _, err := f.WriteString(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", f.Name(), err), f.Close())
	}
	return &claim{file: f, prefix: mark + id + "-"}, nil
}

// release says that the namespaces are gone.
func (c *claim) release() error {
	return errors.Join(os.Remove(c.file.Name()), c.file.Close())
}

// RemoveLeftovers removes the namespaces, and the directories named by
// Config.Dir, of processes that ended without removing them. Those of living processes are left alone.
func RemoveLeftovers() error {
	files, err := filepath.Glob(filepath.Join(claimDir, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range files {
		errs = append(errs, removeLeft(path))
	}
	return errors.Join(errs...)
}

// removeLeft removes what the claim in path was for, if nobody holds it.
func removeLeft(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // its owner has just released it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // its owner lives
	}
	prefix := mark + filepath.Base(path) + "-"
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			errs = append(errs, netns.DeleteNamed(e.Name()))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove left namespaces %s*: %w", prefix, err)
	}
	dir, err := io.ReadAll(io.LimitReader(f, unix.PathMax))
	if err != nil {
		return err
	}
	if strings.HasPrefix(filepath.Base(string(dir)), mark) && filepath.IsAbs(string(dir)) {
		if err := os.RemoveAll(string(dir)); err != nil {
			return err
		}
	}
	return os.Remove(path)
}
