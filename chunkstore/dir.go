package chunkstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The files of a store's directory, beside those in index/ and chunks/.
const (
	versionFile = "VERSION"
	versionTemp = "VERSION.tmp"
	lockFile    = "lock"
	spareFile   = "spare"
)

// Version is the directory format that this package writes. It takes over
// directories of version 1, see upgrade.go.
const Version = 2

const versionPrefix = "flistnode store "

// ErrNotStore says that a directory holds something, but not a store.
var ErrNotStore = errors.New("not a flistnode store and not empty")

// VersionError says that a directory's format is not Version.
type VersionError struct {
	Dir   string
	Found string // what the VERSION file says
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("store %s has format %q, this program knows %q: use a newer program or another directory",
		e.Dir, e.Found, versionPrefix+strconv.Itoa(Version))
}

// InUseError says that another open Store has the directory.
type InUseError struct {
	Dir     string
	PID     int    // of the process that has it; 0 if not known
	Command string // the name of that process; empty if not known
}

func (e *InUseError) Error() string {
	switch {
	case e.PID == 0:
		return fmt.Sprintf("store %s is in use by another process", e.Dir)
	case e.Command == "":
		return fmt.Sprintf("store %s is in use by process %d", e.Dir, e.PID)
	}
	return fmt.Sprintf("store %s is in use by process %d (%s)", e.Dir, e.PID, e.Command)
}

// claimDir makes dir a store if it is missing or empty, locks it, and checks
// its version, which it returns. The lock ends when the returned file is closed,
// or with the process.
func claimDir(dir string) (lock *os.File, version int, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, fmt.Errorf("create store: %w", err)
	}
	if err := checkForeign(dir); err != nil {
		return nil, 0, err
	}
	lock, err = lockDir(dir)
	if err != nil {
		return nil, 0, err
	}
	version, err = checkVersion(dir)
	if err != nil {
		return nil, 0, errors.Join(err, lock.Close())
	}
	return lock, version, nil
}

// checkForeign refuses a directory that has files and no version, before
// anything is written to it.
func checkForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	foreign := false
	for _, e := range entries {
		switch e.Name() {
		case versionFile:
			return nil
		case lockFile, versionTemp: // left by a start that was cut short
		default:
			foreign = true
		}
	}
	if foreign {
		return fmt.Errorf("%s: %w", dir, ErrNotStore)
	}
	return nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = inUse(dir, f)
	} else if err == nil {
		err = writePID(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("lock store: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("lock store: %w", err) // on a full disk the lock holds without a name on it
	}
	return nil
}

func inUse(dir string, lock *os.File) error {
	e := &InUseError{Dir: dir}
	var buf [32]byte
	n, _ := lock.ReadAt(buf[:], 0) // what cannot be read is not known
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return e
	}
	e.PID = pid
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
		e.Command = strings.TrimSpace(string(comm))
	}
	return e
}

// checkVersion reads the version of a locked directory, and writes it if the
// directory is new.
func checkVersion(dir string) (int, error) {
	found, err := os.ReadFile(filepath.Join(dir, versionFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := writeVersion(dir); err != nil {
			return 0, fmt.Errorf("create store %s: %w", dir, err)
		}
		return Version, nil
	case err != nil:
		return 0, fmt.Errorf("open store: %w", err)
	case !bytes.HasPrefix(found, []byte(versionPrefix)):
		return 0, fmt.Errorf("%s: %w", dir, ErrNotStore)
	}
	for version := 1; version <= Version; version++ {
		if string(found) == versionLine(version) {
			return version, nil
		}
	}
	return 0, &VersionError{Dir: dir, Found: trimLine(string(found[:min(len(found), 64)]))}
}

func versionLine(version int) string { return versionPrefix + strconv.Itoa(version) + "\n" }

func writeVersion(dir string) error {
	return writeAtomically(dir, versionTemp, versionFile, []byte(versionLine(Version)))
}

// writeAtomically leaves name in dir with all of content, or as it was.
func writeAtomically(dir, temp, name string, content []byte) error {
	temp = filepath.Join(dir, temp)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncFile(dir)
}

func trimLine(s string) string { return strings.TrimRight(s, "\n") }
