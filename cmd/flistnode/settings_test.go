package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// resolved returns settings made from flags, an environment and the content of
// a configuration file.
func resolved(t *testing.T, args []string, env map[string]string, file string) (*settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	s := new(settings)
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.register(f)
	if err := f.Parse(append(args, "--config", path)); err != nil {
		t.Fatal(err)
	}
	return s, s.resolve(func(key string) (string, bool) { v, ok := env[key]; return v, ok })
}

func TestFlagOverEnvironmentOverFileOverDefault(t *testing.T) {
	file := "site: file\nswarm-key: /file\nno-mdns: true\n"
	env := map[string]string{"FLISTNODE_SITE": "env", "FLISTNODE_SWARM_KEY": "/env"}
	s, err := resolved(t, []string{"--site", "flag"}, env, file)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{s.node.Site, s.node.SwarmKey, s.node.MDNS, s.origin["site"], s.origin["swarm-key"], s.origin["no-mdns"], s.origin["cache"]}
	want := []any{"flag", "/env", false, "flag --site", "environment FLISTNODE_SWARM_KEY", "file " + s.file, originDefault}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("settings (-want +got):\n%s", d)
	}
}

func TestAListReplacesTheDefaultWhereverItComesFrom(t *testing.T) {
	want := []string{"/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"}
	sources := map[string]struct {
		args []string
		env  map[string]string
		file string
	}{
		"flag twice":  {args: []string{"--listen", want[0], "--listen", want[1]}},
		"flag":        {args: []string{"--listen", want[0] + "," + want[1]}},
		"environment": {env: map[string]string{"FLISTNODE_LISTEN": want[0] + "," + want[1]}},
		"list":        {file: "listen:\n  - " + want[0] + "\n  - " + want[1] + "\n"},
		"scalar":      {file: "listen: " + want[0] + "," + want[1] + "\n"},
	}
	for name, src := range sources {
		s, err := resolved(t, src.args, src.env, src.file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(want, s.node.Listen); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestTheSocketMovesWithTheDataUnlessGiven(t *testing.T) {
	s, err := resolved(t, []string{"--data", "/srv/x"}, nil, "")
	if err != nil || s.node.API != "/srv/x/api.sock" {
		t.Errorf("socket is %s, %v", s.node.API, err)
	}
	s, err = resolved(t, []string{"--data", "/srv/x"}, map[string]string{"FLISTNODE_API": "/run/y.sock"}, "")
	if err != nil || s.node.API != "/run/y.sock" {
		t.Errorf("socket is %s, %v", s.node.API, err)
	}
}

func TestRelativePathsBecomeAbsolute(t *testing.T) {
	s, err := resolved(t, []string{"--data", "x", "--swarm-key", "key"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{s.node.Data, s.node.SwarmKey, s.node.API} {
		if !filepath.IsAbs(p) {
			t.Errorf("%s is not absolute", p)
		}
	}
}

func TestSettingsAreCheckedWhateverTheyComeFrom(t *testing.T) {
	tests := map[string]struct {
		env  map[string]string
		file string
		want string
	}{
		"environment": {env: map[string]string{"FLISTNODE_CACHE": "lots"}, want: "FLISTNODE_CACHE"},
		"file":        {file: "cache: lots\n", want: "line 1: cache"},
		"null":        {file: "cache:\n", want: "want a value"},
		"too small":   {file: "cache: 1KiB\n", want: "cache"},
		"timeout":     {file: "read-timeout: 0s\n", want: "read timeout"},
		"anchor":      {file: "data: &a {b: c}\n", want: "want a value"},
		"alias":       {file: "site: &a x\ndata: *a\n", want: "want a value"},
		"not a map":   {file: "- a\n", want: "key: value"},
		"key":         {file: "api: /x\n? [a]\n: b\n", want: "unknown key"},
	}
	for name, tt := range tests {
		_, err := resolved(t, nil, tt.env, tt.file)
		if err == nil || !strings.Contains(err.Error(), tt.want) || exitCode(err) != exitUsage {
			t.Errorf("%s: error %v with exit code %d, want %q and %d", name, err, exitCode(err), tt.want, exitUsage)
		}
	}
}
