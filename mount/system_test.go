package mount_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

type dirent struct {
	name string
	ino  uint64
	off  int64
}

// getdents reads one buffer of a directory from an offset on.
func getdents(t testing.TB, path string, off int64, size int) []dirent {
	t.Helper()
	fd, err := unix.Open(path, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Seek(fd, off, unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	var list []dirent
	for b := buf[:n]; len(b) > 0; {
		length := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := bytes.Cut(b[19:length], []byte{0})
		list = append(list, dirent{string(name), binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:]))})
		b = b[length:]
	}
	return list
}

func noiseName(i int) []byte {
	return hex.AppendEncode(nil, binary.BigEndian.AppendUint32(nil, uint32(i)*2654435761))
}

// publicDir is a mount point that other users can reach, as t.TempDir is not.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mount-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// asNobody reads a file as another user.
func asNobody(path string) (string, error) {
	cmd := exec.Command("cat", path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	return string(out), err
}
