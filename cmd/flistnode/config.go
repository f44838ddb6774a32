package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newConfig(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "Print the settings that hold and where each came from",
		Long: `Print every setting with its value and where it came from: a flag, the
environment, the configuration file, or the default. The settings are those a
daemon or a command would use if it were started in the same place with the same
flags; a running daemon is not asked.

With --json: one document, {"file": ..., "settings": {NAME: {"value", "origin"}}}.`,
		Example: `  flistnode config
  FLISTNODE_SITE=attic flistnode config --data /srv/flistnode`,
		Args: wantArgs(0, 0),
		RunE: func(*cobra.Command, []string) error { return a.config() },
	}
}

// settingJSON is one setting as "config --json" prints it; a list is a JSON
// array, all else a string.
type settingJSON struct {
	Value  any    `json:"value"`
	Origin string `json:"origin"`
}

func (a *app) config() error {
	s := &a.settings
	for _, name := range unknownEnv(os.Environ(), s.names) {
		fmt.Fprintf(a.stderr, "flistnode: environment variable %s is no setting and has no effect\n", quote(name))
	}
	if a.json {
		all := make(map[string]settingJSON)
		for _, name := range s.names {
			all[name] = settingJSON{Value: settingValue(s.flags.Lookup(name)), Origin: s.origin[name]}
		}
		return a.printJSON(map[string]any{"file": s.file, "settings": all})
	}
	t := a.table("SETTING", "VALUE", "FROM")
	for _, name := range s.names {
		value := settingValue(s.flags.Lookup(name))
		if list, ok := value.([]string); ok {
			value = strings.Join(list, ",")
		}
		shown := value.(string)
		if shown == "" {
			shown = "-"
		}
		t.row(name, quote(shown), quote(s.origin[name]))
	}
	return t.flush()
}

func settingValue(f *pflag.Flag) any {
	if sv, ok := f.Value.(pflag.SliceValue); ok {
		return append([]string{}, sv.GetSlice()...)
	}
	return f.Value.String()
}

// unknownEnv returns the variables in environ that look like settings and are
// none. They are told, not refused: other software (a container scheduler, say)
// sets variables of this form for reasons of its own.
func unknownEnv(environ, names []string) []string {
	var unknown []string
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		isName := func(name string) bool { return envName(name) == key }
		if strings.HasPrefix(key, "FLISTNODE_") && value != "" && !isName("config") && !slices.ContainsFunc(names, isName) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown
}
