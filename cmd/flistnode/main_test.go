package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/flistnode/flistnode/flist/chunk"
	"github.com/flistnode/flistnode/node/api"
)

// patience bounds every wait for another process; a busy machine needs it, no
// test takes it otherwise.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"flistnode": main})
}

// TestScripts runs the real main, and real daemons on loopback.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               setupScript,
		Condition:           scriptCondition,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exit":       cmdExit,
			"ready":      cmdReady,
			"capture":    cmdCapture,
			"eventually": cmdEventually,
			"damage":     cmdDamage,
			"truncate":   cmdTruncate,
		},
	})
}

// setupScript gives every script a home of its own and a node that talks to
// loopback only.
func setupScript(env *testscript.Env) error {
	nobody := chunk.Sum([]byte("nobody has this"))
	for _, kv := range [][2]string{
		{"HOME", env.WorkDir},
		{"FLISTNODE_CONFIG", filepath.Join(env.WorkDir, "config.yaml")},
		{"FLISTNODE_DATA", filepath.Join(env.WorkDir, "d")},
		{"FLISTNODE_LISTEN", "/ip4/127.0.0.1/tcp/0"},
		{"FLISTNODE_NO_MDNS", "true"},
		{"NOBODY", cid.NewCidV1(cid.DagCBOR, nobody.Multihash()).String()},
		{"RAWCID", nobody.String()},
	} {
		env.Setenv(kv[0], kv[1])
	}
	return os.WriteFile(filepath.Join(env.WorkDir, "config.yaml"), nil, 0o600)
}

func scriptCondition(cond string) (bool, error) {
	switch cond {
	case "fuse":
		f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err == nil {
			err = f.Close()
		}
		return err == nil, nil
	case "root":
		return os.Geteuid() == 0, nil
	}
	return false, errors.New("unknown condition")
}

// exit CODE PROGRAM ARGS... runs a program that must end with just this code.
func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitCodeOf(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit code is %d, want %d", got, want)
	}
}

func exitCodeOf(ts *testscript.TestScript, err error) int {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		ts.Fatalf("run: %v", err)
	}
	return exit.ExitCode()
}

// ready DATA waits until the daemon of a data directory answers.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DATA")
	}
	socket := filepath.Join(ts.MkAbs(args[0]), "api.sock")
	poll(ts, func() error {
		c, err := api.Dial(socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// eventually PROGRAM ARGS... runs a program until it succeeds.
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: eventually PROGRAM ARGS...")
	}
	poll(ts, func() error { return ts.Exec(args[0], args[1:]...) })
}

func poll(ts *testscript.TestScript, ok func() error) {
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("still not so: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// capture NAME [LINE] sets a variable to what was last printed, or to one line
// of it, counted from 1.
func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: capture NAME [LINE]")
	}
	out := strings.TrimRight(ts.ReadFile("stdout"), "\n")
	if len(args) == 2 {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		all := strings.Split(out, "\n")
		if n < 1 || n > len(all) {
			ts.Fatalf("there are %d lines, want line %d", len(all), n)
		}
		out = all[n-1]
	}
	ts.Setenv(args[0], out)
}

// damage FILE flips a bit in the middle of a file.
func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: damage FILE")
	}
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(path, data, 0o600))
}

// truncate FILE cuts a file in half.
func cmdTruncate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: truncate FILE")
	}
	path := ts.MkAbs(args[0])
	st, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.Truncate(path, st.Size()/2))
}
