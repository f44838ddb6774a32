package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"github.com/flistnode/flistnode/node"
)

// Annotations of flags: isSetting marks one that can also come from the
// environment and the configuration file, nodeSetting one that is about the
// node rather than about the command line.
const (
	isSetting   = "flistnode-setting"
	nodeSetting = "flistnode-node-setting"
)

// maxSocketPath is what the system allows, in bytes (sun_path less its zero).
const maxSocketPath = 107

// originDefault is the origin of a setting nobody has set.
const originDefault = "default"

// settings are the node's configuration and the log's, each looked for as
// flag, environment variable, key of the configuration file, and default. The
// flag's name is the key, and parses its value wherever it comes from.
type settings struct {
	node      node.Config
	noMDNS    bool
	logLevel  slog.Level
	logFormat string

	file   string // the configuration file; empty if there is none
	flags  *pflag.FlagSet
	names  []string          // in the order of registration
	origin map[string]string // name -> where its value came from
}

// register adds the settings to f as flags.
func (s *settings) register(f *pflag.FlagSet) {
	s.node = node.DefaultConfig()
	s.node.Version = buildVersion().Version
	s.logLevel = slog.LevelWarn
	s.logFormat = "text"
	s.flags = f
	s.origin = make(map[string]string)

	f.StringVar(&s.file, "config", "", "configuration `FILE`")
	f.StringVar(&s.node.Data, "data", s.node.Data,
		"`DIR` of the store and the node's identity (default /var/lib/flistnode for root, $XDG_DATA_HOME/flistnode for others)")
	f.StringVar(&s.node.API, "api", s.node.API,
		"control `SOCKET` of the daemon (default /run/flistnode/flistnode.sock for root, "+
			"$XDG_RUNTIME_DIR/flistnode/flistnode.sock for others; DIR/api.sock with --data DIR)")
	s.common("data", "api")
	for _, name := range s.names {
		f.Lookup(name).DefValue = "" // the text says more
	}
	f.Var((*levelValue)(&s.logLevel), "log-level", "least `LEVEL` logged to stderr: debug, info, warn, error; info for a daemon")
	f.Var(&choice{&s.logFormat, []string{"text", "json"}}, "log-format", "`FORMAT` of the log: text, json")

	f.StringSliceVar(&s.node.Listen, "listen", s.node.Listen, "`MULTIADDR` to listen on; may be repeated")
	f.StringSliceVar(&s.node.Peers, "peer", s.node.Peers, "`MULTIADDR` of a peer to begin with, ending in /p2p/ID; may be repeated")
	f.StringVar(&s.node.SwarmKey, "swarm-key", s.node.SwarmKey, "`FILE` with the pre-shared key of a private network")
	f.StringVar(&s.node.Site, "site", s.node.Site, "`NAME` of the site this node is in; peers of the same site are asked first")
	f.BoolVar(&s.noMDNS, "no-mdns", !s.node.MDNS, "do not look for peers on the LAN by multicast")
	f.Var(&choice{&s.node.Announce, []string{node.AnnounceAuto, node.AnnounceChunks, node.AnnounceRoots}}, "announce",
		"`WHAT` is announced to the network: chunks, roots (only flists), or auto: chunks as long as that is cheap")
	f.Var((*bytesValue)(&s.node.CacheBytes), "cache", "`BYTES` of chunks kept in memory, as in 256MiB")
	f.Var((*rateValue)(&s.node.UploadLimit), "upload-limit", "`BYTES` of chunks a second sent to peers at most, as in 10MiB; 0: no limit")
	f.Var((*rateValue)(&s.node.DownloadLimit), "download-limit", "`BYTES` of chunks a second taken from peers at most; 0: no limit")
	f.Var((*bytesValue)(&s.node.ReplicateMax), "replicate-max", "`BYTES` kept for other nodes of the site at most, as in 10GiB; 0: nothing")
	f.DurationVar(&s.node.ReplicateGrace, "replicate-grace", s.node.ReplicateGrace, "`TIME` a node of the site may be gone before its copies are made anew")
	f.DurationVar(&s.node.ReadTimeout, "read-timeout", s.node.ReadTimeout, "`TIME` a read of a mounted file waits for a chunk before it fails")
	f.DurationVar(&s.node.FetchTimeout, "fetch-timeout", s.node.FetchTimeout, "`TIME` a command waits for a chunk nobody sends before it fails")
	s.common("log-level", "log-format", "listen", "peer", "swarm-key", "site", "no-mdns", "announce", "cache",
		"upload-limit", "download-limit", "replicate-max", "replicate-grace", "read-timeout", "fetch-timeout")
	for _, name := range s.names[2:] {
		f.Lookup(name).Annotations[nodeSetting] = []string{"true"}
	}
}

// common marks flags as settings.
func (s *settings) common(names ...string) {
	for _, name := range names {
		s.flags.Lookup(name).Annotations = map[string][]string{isSetting: {"true"}}
		s.names = append(s.names, name)
	}
}

// envName returns the environment variable of a setting.
func envName(name string) string {
	return "FLISTNODE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// resolve gives every setting that no flag has set its value from the
// environment or the configuration file, and checks the whole. An empty
// variable counts as none.
func (s *settings) resolve(getenv func(string) (string, bool)) error {
	file, err := s.open(getenv)
	if err != nil {
		return err
	}
	for _, name := range s.names {
		f := s.flags.Lookup(name)
		s.origin[name] = originDefault
		if f.Changed {
			s.origin[name] = "flag --" + name
			continue
		}
		if v, ok := getenv(envName(name)); ok && v != "" {
			if err := f.Value.Set(v); err != nil {
				return settingf("environment variable %s: %q: %w", envName(name), v, plainValue(err))
			}
			s.origin[name] = "environment " + envName(name)
			continue
		}
		if v, ok := file[name]; ok {
			if err := v.apply(f.Value); err != nil {
				return settingf("configuration file %s, line %d: %s: %w", s.file, v.line, name, plainValue(err))
			}
			s.origin[name] = "file " + s.file
		}
	}
	return s.settle()
}

// givenToNode returns the names of the node's settings that were given as
// flags.
func (s *settings) givenToNode() []string {
	var given []string
	for _, name := range s.names {
		f := s.flags.Lookup(name)
		if f.Changed && f.Annotations[nodeSetting] != nil && name != "log-level" && name != "log-format" {
			given = append(given, name)
		}
	}
	return given
}

// settle fills in what depends on other settings and makes paths absolute,
// since a daemon has another working directory than its clients.
func (s *settings) settle() error {
	s.node.MDNS = !s.noMDNS
	for _, p := range []*string{&s.node.Data, &s.node.SwarmKey, &s.node.API} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return settingf("make path %s absolute: %w", quote(*p), err)
		}
		*p = abs
	}
	if s.origin["api"] == originDefault && s.origin["data"] != originDefault {
		s.node.API = filepath.Join(s.node.Data, "api.sock")
		s.origin["api"] = "derived from data"
	}
	if len(s.node.API) > maxSocketPath {
		return &failure{err: fmt.Errorf("path of the control socket is longer than %d bytes: %s", maxSocketPath, quote(s.node.API)),
			code: exitUsage, hint: "Name a shorter one with --api."}
	}
	if err := s.node.Check(); err != nil {
		return settingError(err)
	}
	return nil
}

// open finds and reads the configuration file. One that was asked for must
// exist; the one in the usual place need not.
func (s *settings) open(getenv func(string) (string, bool)) (map[string]fileValue, error) {
	path, asked := s.file, s.flags.Changed("config")
	if v, ok := getenv(envName("config")); ok && v != "" && !asked {
		path, asked = v, true
	}
	if !asked {
		path = defaultConfigFile(getenv)
	}
	s.file = ""
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) && !asked {
		return nil, nil
	}
	if err != nil {
		return nil, settingf("read configuration file: %w", err)
	}
	s.file = path
	return parseFile(path, data, s.names)
}

func defaultConfigFile(getenv func(string) (string, bool)) string {
	if os.Geteuid() == 0 {
		return "/etc/flistnode/config.yaml"
	}
	dir, ok := getenv("XDG_CONFIG_HOME")
	if !ok || dir == "" {
		home, ok := getenv("HOME")
		if !ok || home == "" {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "flistnode", "config.yaml")
}

// bytesValue is a flag that holds a number of bytes.
type bytesValue int64

func (b *bytesValue) Type() string   { return "bytes" }
func (b *bytesValue) String() string { return strings.ReplaceAll(humanize.IBytes(uint64(*b)), " ", "") }
func (b *bytesValue) Set(v string) error {
	n, err := humanize.ParseBytes(v)
	if err != nil || n > 1<<62 {
		return fmt.Errorf("not a number of bytes, as in 256MiB: %q", v)
	}
	*b = bytesValue(n)
	return nil
}

// rateValue is a flag that holds a number of bytes a second, 0 for no limit.
type rateValue int64

func (r *rateValue) Type() string { return "rate" }
func (r *rateValue) String() string {
	if *r == 0 {
		return "0"
	}
	return (*bytesValue)(r).String()
}

func (r *rateValue) Set(v string) error {
	if err := (*bytesValue)(r).Set(strings.TrimSuffix(v, "/s")); err != nil {
		return fmt.Errorf("not a number of bytes a second, as in 10MiB: %q", v)
	}
	return nil
}

// levelValue is a flag that holds a log level.
type levelValue slog.Level

func (l *levelValue) Type() string   { return "level" }
func (l *levelValue) String() string { return strings.ToLower(slog.Level(*l).String()) }
func (l *levelValue) Set(v string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(v)); err != nil {
		return fmt.Errorf("not a level (debug, info, warn, error): %q", v)
	}
	*l = levelValue(level)
	return nil
}

// choice is a flag that holds one of a few words.
type choice struct {
	value *string
	of    []string
}

func (c *choice) Type() string   { return "word" }
func (c *choice) String() string { return *c.value }
func (c *choice) Set(v string) error {
	for _, w := range c.of {
		if v == w {
			*c.value = v
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s", v, strings.Join(c.of, ", "))
}
