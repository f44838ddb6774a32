package chunkstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/flistnode/flistnode/flist/chunk"
)

// The test binary runs itself as a child: childDirEnv names the store it
// opens. The child prints "open", then "put N" for each chunk put and
// "sync N" when the first N are synced, and goes on until it is killed.
const childDirEnv = "CHUNKSTORE_TEST_CHILD_DIR"

const childChunkBytes = 40_000

func childMain(dir string) int {
	s, err := Open(dir, Options{segmentBytes: 4 << 20})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("open")
	for i := range 20_000 {
		if err := s.Put(context.Background(), chunk.Pack(randomBytes(uint64(i), childChunkBytes))); err != nil {
			fmt.Println("error", err)
			return 1
		}
		fmt.Println("put", i)
		if i%100 == 50 {
			if err := s.Sync(); err != nil {
				fmt.Println("error", err)
				return 1
			}
			fmt.Println("sync", i+1)
		}
	}
	return 0
}

// startChild returns the lines of a child that has opened dir. It is killed
// at the end of the test at the latest.
func startChild(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDirEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("child says %q", lines.Text())
	}
	return cmd, lines
}

func kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill() // SIGKILL; it may have ended by itself
		_ = cmd.Wait()
	}
}

func TestKilledProcessLosesNothingAndLiesAboutNothing(t *testing.T) {
	dir := t.TempDir()
	cmd, lines := startChild(t, dir)
	put, synced := -1, 0
	for lines.Scan() {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "put %d", &n); err == nil {
			put = n
		} else if _, err := fmt.Sscanf(lines.Text(), "sync %d", &n); err == nil {
			synced = n
		} else {
			t.Fatalf("child says %q", lines.Text())
		}
		if put >= 430 && synced > 0 {
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(&scanReader{lines})
	if err != nil {
		t.Fatal(err)
	}
	put += bytes.Count(rest, []byte("put ")) // said before it died
	kill(cmd)

	s := openT(t, dir, Options{segmentBytes: 4 << 20})
	for i := range put + 1 {
		wantHeld(t, s, randomBytes(uint64(i), childChunkBytes))
	}
	t.Logf("%d put, %d synced", put+1, synced)
	var ids []chunk.ID
	if err := s.Iterate(t.Context(), func(id chunk.ID, _ int) error { ids = append(ids, id); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := s.Get(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

// scanReader reads what a scanner has left, whole lines only.
type scanReader struct{ lines *bufio.Scanner }

func (r *scanReader) Read(b []byte) (int, error) {
	if !r.lines.Scan() {
		return 0, io.EOF
	}
	return copy(b, r.lines.Text()+"\n"), nil
}

func TestSecondProcessIsToldWhoHasTheStore(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := startChild(t, dir)
	_, err := Open(dir, Options{})
	inUse := (*InUseError)(nil)
	if !errors.As(err, &inUse) {
		t.Fatalf("Open of a store in use: %v", err)
	}
	if inUse.PID != cmd.Process.Pid || inUse.Dir != dir || inUse.Command == "" {
		t.Errorf("InUseError = %+v, want pid %d", inUse, cmd.Process.Pid)
	}
	if want := fmt.Sprintf("in use by process %d (", cmd.Process.Pid); !strings.Contains(err.Error(), want) {
		t.Errorf("message %q lacks %q", err, want)
	}
	kill(cmd)
	openT(t, dir, Options{segmentBytes: 4 << 20}) // the lock went with the process
}
