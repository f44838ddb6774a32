package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// newFile is a file that appears under its name whole or not at all: it is
// written under another name, synced and renamed.
type newFile struct {
	*os.File
	name string
	kept bool
}

// createFile makes a file that will be called name. What it can tell about
// the name it tells now.
func createFile(name string) (*newFile, error) {
	if st, err := os.Stat(name); err == nil && st.IsDir() {
		return nil, usagef("write %s: it is a directory", quote(name))
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", quote(name), err)
	}
	return &newFile{File: f, name: name}, nil
}

// keep gives the file its name.
func (f *newFile) keep() error {
	err := f.Chmod(0o644)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), f.name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", quote(f.name), err)
	}
	f.kept = true
	return nil
}

// discard removes the file unless it was kept.
func (f *newFile) discard() error {
	if f.kept {
		return nil
	}
	_ = f.Close() // keep may have closed it
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("remove unfinished file: %w", err)
	}
	return nil
}
