//go:build suites

package testnet_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
)

// The suites run with `make suites`. A tool that is missing is a failure: who
// asks for the suites wants all of them. docs/testing.md tells what does not
// apply, and why.

// suiteDir is the directory that is packed and mounted.
func suiteDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("SUITES_DIR"); dir != "" {
		return dir
	}
	dir, err := testnet.UsualDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// tool fails the test if a program is missing, and names its Debian package.
func tool(t *testing.T, name, debian string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, debian)
	}
}

// runTool runs a program and returns its output and exit code.
func runTool(t *testing.T, name string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = t.TempDir() // some leave files
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// suiteMount packs a directory on one node and mounts it on another.
func suiteMount(t *testing.T, dir string, rw bool, args ...string) (nodes []*testnet.Node, target string) {
	t.Helper()
	if err := fuseIsThere(); err != nil {
		t.Fatal(err)
	}
	nodes = line(t, network(t, args...), 2)
	cid := pack(t, nodes[0], dir)
	target, err := os.MkdirTemp("", "mnt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(target, unix.MNT_DETACH)
		os.Remove(target)
	})
	if _, err := nodes[1].Mount(t.Context(), api.MountRequest{FList: cid, Dir: target, ReadWrite: rw}); err != nil {
		t.Fatal(err)
	}
	return nodes, target
}

func fuseIsThere() error {
	if os.Geteuid() != 0 {
		return errors.New("the suites need root")
	}
	_, err := os.Stat("/dev/fuse")
	return err
}

// notForOverlay are the tests of posixtest that do not apply; see package mount.
var notForOverlay = []string{"FcntlFlockLocksFile", "XAttrLarge"}

func TestSuitePosixtest(t *testing.T) {
	_, target := suiteMount(t, suiteDir(t), true)
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		if slices.Contains(notForOverlay, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			at := filepath.Join(target, "posixtest "+name)
			if err := os.Mkdir(at, 0o755); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, at)
			if err := os.RemoveAll(at); err != nil {
				t.Error(err)
			}
		})
	}
}

// stressors are those of stress-ng that work on files of a directory given.
var stressors = []string{
	"access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "fallocate", "fiemap", "file-ioctl",
	"filename", "flock", "fpunch", "fstat", "getdent", "hdd", "inode-flags", "iomix", "lease", "link", "locka", "lockf", "lockofd",
	"mknod", "mmap", "msync", "readahead", "rename", "seek", "sendfile", "symlink", "sync-file", "touch", "utime", "xattr",
}

const stressTime = "1s"

// stress runs a stressor with files in dir and fails the test if it does not
// succeed.
func stress(t *testing.T, dir, name string, more ...string) {
	t.Helper()
	args := []string{"--" + name, "2", "--timeout", stressTime, "--verify", "--temp-path", dir}
	if name == "mmap" {
		args = append(args, "--mmap-file", "--mmap-bytes", "32m")
	}
	out, code := runTool(t, "stress-ng", append(args, more...)...)
	if code != 0 || !strings.Contains(out, "successful run completed") || strings.Contains(out, "skipped") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestSuiteStressOnOverlay(t *testing.T) {
	tool(t, "stress-ng", "stress-ng")
	nodes, target := suiteMount(t, suiteDir(t), true)
	for _, name := range stressors {
		t.Run(name, func(t *testing.T) {
			at := filepath.Join(target, "stress "+name)
			if err := os.Mkdir(at, 0o777); err != nil {
				t.Fatal(err)
			}
			stress(t, at, name)
			if left, err := os.ReadDir(at); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	noReadErrors(t, nodes[1])
}

// TestSuiteStressOnReadOnlyMount runs the stressor that takes files it has not
// made, while all of the mount is read and compared.
func TestSuiteStressOnReadOnlyMount(t *testing.T) {
	tool(t, "stress-ng", "stress-ng")
	dir := suiteDir(t)
	nodes, target := suiteMount(t, dir, false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		stress(t, t.TempDir(), "fstat", "--fstat-dir", target)
	}()
	equalTrees(t, dir, target, testnet.CompareOptions{BirthTime: true, NoDirNlink: true, LinksInside: true, SkipHoles: true})
	<-done
	noReadErrors(t, nodes[1])
}

func noReadErrors(t *testing.T, n *testnet.Node) {
	t.Helper()
	mounts, err := n.Mounts(t.Context())
	if err != nil || len(mounts) != 1 || mounts[0].ReadErrors > 0 {
		t.Errorf("mounts: %+v, %v", mounts, err)
	}
}

// fio runs one job of 64 MiB over a file in dir with CRCs in every 4 KiB.
func fio(t *testing.T, dir, name string, args ...string) (string, int) {
	t.Helper()
	return runTool(t, "fio", append([]string{"--name=" + name, "--directory=" + dir, "--size=64m", "--verify=crc32c",
		"--verify_interval=4k", "--verify_fatal=1", "--verify_state_save=0"}, args...)...)
}

func TestSuiteFioOnOverlay(t *testing.T) {
	tool(t, "fio", "fio")
	_, target := suiteMount(t, suiteDir(t), true)
	for name, args := range map[string][]string{
		"sequential": {"--rw=write", "--bs=128k"}, "random": {"--rw=randwrite", "--bs=4k"}, "mapped": {"--rw=randwrite", "--bs=4k", "--ioengine=mmap"},
		"direct": {"--rw=randwrite", "--bs=64k", "--direct=1"}, "parallel": {"--rw=randwrite", "--bs=16k", "--ioengine=libaio", "--iodepth=16"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, code := fio(t, target, name, append(args, "--do_verify=1", "--end_fsync=1")...); code != 0 {
				t.Errorf("exit code %d:\n%s", code, out)
			}
		})
	}
}

func TestSuiteFioOnReadOnlyMount(t *testing.T) {
	tool(t, "fio", "fio")
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if out, code := fio(t, dir, name, "--rw=write", "--bs=128k", "--do_verify=0"); code != 0 {
			t.Fatalf("write: %s", out)
		}
	}
	nodes, target := suiteMount(t, dir, false)
	for _, rw := range []string{"read", "randread"} {
		for name, args := range map[string][]string{
			"small": {"--bs=4k"}, "large": {"--bs=1m"}, "odd": {"--bs=12k"}, "mapped": {"--bs=4k", "--ioengine=mmap"}, "direct": {"--bs=64k", "--direct=1"},
			"parallel": {"--bs=16k", "--ioengine=libaio", "--iodepth=16", "--direct=1"},
		} {
			t.Run(rw+" "+name, func(t *testing.T) {
				for _, file := range []string{"a", "b"} {
					if out, code := fio(t, target, file, append(args, "--readonly", "--rw="+rw)...); code != 0 {
						t.Errorf("exit code %d:\n%s", code, out)
					}
				}
			})
		}
	}
	noReadErrors(t, nodes[1])
	t.Run("a flipped bit is seen", func(t *testing.T) {
		file := filepath.Join(dir, "a.0.0")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(data)
		flipped[len(data)/2+100] ^= 1
		if err := os.WriteFile(file, flipped, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, code := fio(t, dir, "a", "--readonly", "--rw=read", "--bs=4k"); code == 0 {
			t.Errorf("fio says it is sound:\n%s", out)
		}
	})
}
