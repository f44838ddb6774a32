package p2p

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// inNamespace is set in the environment of a test that runs again inside a
// network namespace of its own.
const inNamespace = "FLISTNODE_TEST_NETNS"

// TestNodesOnALANFindEachOther runs in a network namespace with nothing but a
// loopback interface that carries multicast, so that nothing leaves the
// machine.
func TestNodesOnALANFindEachOther(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		runInNamespace(t)
		return
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up", "multicast", "on"},
		{"route", "add", "224.0.0.0/4", "dev", "lo"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	a, stopA := start(t, Config{MDNS: true})
	b, stopB := start(t, Config{MDNS: true})
	waitFor(t, "the nodes to find each other", func() bool { return connected(a, b) })
	began := time.Now()
	stopA()
	stopB()
	t.Logf("stopped after %s", time.Since(began))
}

func runInNamespace(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("no ip command to set up a network namespace with")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestNodesOnALANFindEachOther$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Skipf("no network namespace to be had: %v", err)
		}
		t.Fatalf("in the namespace: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
