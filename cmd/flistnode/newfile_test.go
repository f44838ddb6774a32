package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestANewFileAppearsWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.flist")
	write := func() *newFile {
		f, err := createFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("content"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(name); !os.IsNotExist(err) {
			t.Errorf("the file is there before it is whole: %v", err)
		}
		return f
	}

	if err := write().discard(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("discard left %v, %v", left, err)
	}

	f := write()
	if err := f.keep(); err != nil {
		t.Fatal(err)
	}
	if err := f.discard(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "content" {
		t.Errorf("file holds %q, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("keep left %v, %v", left, err)
	}

	for _, bad := range []string{dir, filepath.Join(dir, "nowhere", "x")} {
		if _, err := createFile(bad); err == nil {
			t.Errorf("%s was created", bad)
		}
	}
}
