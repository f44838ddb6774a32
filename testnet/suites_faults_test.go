//go:build suites

package testnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/testnet"
	"github.com/flistnode/flistnode/testnet/fabric"
)

// promptly is how long a reader may take to end after ctrl-C.
const promptly = time.Second

// TestSuiteInterruptedReaders presses ctrl-C in readers at random moments,
// half of them while the only peer with the content does not answer.
func TestSuiteInterruptedReaders(t *testing.T) {
	dir, files := randomFiles(t, 8, 8<<20)
	nodes, target := suiteMount(t, dir, false, "--cache", "16MiB")
	rnd := rand.New(rand.NewPCG(1, 2))
	waited := time.Duration(0)
	for round := range 48 {
		switch round {
		case 12, 36:
			if err := nodes[0].Freeze(); err != nil {
				t.Fatal(err)
			}
		case 24:
			if err := nodes[0].Thaw(); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(target, "f"+string(rune('0'+rnd.IntN(8))))
		program := [][]string{
			{"cat", file}, {"cp", file, "/dev/null"}, {"dd", "if=" + file, "of=/dev/null", "bs=64k", "iflag=direct"}, {"sha256sum", file},
			{"grep", "-c", "nothing", file}, {"tail", "-c", "1000000", file},
		}[round%6]
		cmd := exec.Command(program[0], program[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.IntN(150_000)) * time.Microsecond) // a random moment
		began := time.Now()
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		killer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // interrupted, or not
		killer.Stop()
		took := time.Since(began)
		waited = max(waited, took)
		if took > promptly {
			t.Errorf("round %d: %v took %s to end", round, program, took)
		}
	}
	t.Logf("the longest took %s to end", waited)
	if err := nodes[0].Thaw(); err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if err := readAgainAndAgain(t.Context(), filepath.Join(target, name), want); err != nil {
			t.Error(err)
		}
	}
	if err := nodes[1].Unmount(t.Context(), target, false); err != nil {
		t.Errorf("something holds the mount: %v", err)
	}
}

// readAgainAndAgain reads a file until nothing fails, and checks that what is
// read before an error is right.
func readAgainAndAgain(ctx context.Context, path string, want []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		got, err := os.ReadFile(path)
		if !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
			return errors.New(path + ": wrong bytes")
		}
		if err == nil || !errors.Is(err, unix.EIO) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TestSuiteUplinkCutDuringARead cuts the only link to the content while it is
// read: for a moment, and for longer than a read waits.
func TestSuiteUplinkCutDuringARead(t *testing.T) {
	if err := errors.Join(fuseIsThere(), fabric.Available()); err != nil {
		t.Fatal(err)
	}
	const patience = 4 * time.Second
	for name, c := range map[string]struct {
		cut  time.Duration
		fail bool
	}{"for a moment": {cut: 2 * time.Second}, "for long": {cut: 3 * patience, fail: true}} {
		t.Run(name, func(t *testing.T) {
			target, content, uplink := farMount(t, patience)
			f, err := os.Open(target)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			buf := make([]byte, len(content))
			half := len(content) / 4
			if _, err := io.ReadFull(f, buf[:half]); err != nil {
				t.Fatal(err)
			}
			if err := uplink.Cut(); err != nil {
				t.Fatal(err)
			}
			healed := make(chan error, 1)
			time.AfterFunc(c.cut, func() { healed <- uplink.Heal() })
			failed, short, start := 0, false, time.Now()
			for n := half; n < len(content); {
				began := time.Now()
				got, err := f.Read(buf[n:min(n+64<<10, len(content))])
				took := time.Since(began)
				switch {
				case errors.Is(err, unix.EIO):
					failed++
				case err != nil:
					t.Fatal(err)
				case got < min(64<<10, len(content)-n):
					short = true // the kernel returns what is before the bytes that are not to be had
				case short:
					t.Fatalf("a short read without an error behind it, before %d", n)
				}
				if err != nil {
					short = false
				}
				if took > time.Second {
					t.Logf("%.1f s: the read at %d took %s: %v", time.Since(start).Seconds(), n, took, err)
				}
				if took > 2*patience+2*time.Second { // a readahead, then the read itself
					t.Errorf("a read at %d took %s", n, took)
				}
				if n += got; failed > 100 {
					t.Fatal("reads do not work again")
				}
			}
			if err := <-healed; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf, content) {
				t.Error("wrong bytes")
			}
			t.Logf("%d reads failed", failed)
			if (failed > 0) != c.fail {
				t.Errorf("%d reads failed", failed)
			}
		})
	}
}

// farMount packs a file in one site and mounts it in another, over a slow
// uplink.
func farMount(t *testing.T, patience time.Duration) (path string, content []byte, uplink *fabric.Link) {
	t.Helper()
	f, err := fabric.New(fabric.Config{Dir: t.TempDir(), Sites: []fabric.Site{
		{Name: "a", Hosts: []string{"a1"}}, {Name: "b", Hosts: []string{"b1"}, Uplink: fabric.Shape{BitsPerSecond: 50e6}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	n := networkIn(t, testnet.Config{Fabric: f, Args: []string{"--read-timeout", patience.String()}})
	a, err := n.Start(t.Context(), "a1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.Start(t.Context(), "b1", a)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WaitPeers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	dir, files := randomFiles(t, 1, 32<<20)
	target, err := os.MkdirTemp("", "mnt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(target, unix.MNT_DETACH)
		os.Remove(target)
	})
	if _, err := b.Mount(t.Context(), api.MountRequest{FList: pack(t, a, dir), Dir: target}); err != nil {
		t.Fatal(err)
	}
	if uplink, err = f.Link("b"); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(target, "f0"), files["f0"], uplink
}
