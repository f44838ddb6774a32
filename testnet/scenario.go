package testnet

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v3"

	"github.com/flistnode/flistnode/testnet/fabric"
)

// Scenario is a network and what happens in it. docs/testing.md explains its
// form as a file.
type Scenario struct {
	Name  string             `yaml:"-"`     // of the file, without .yaml
	Title string             `yaml:"title"` // one line
	Size  Size               `yaml:"size"`  // of the content, which cannot be compressed
	Retry bool               `yaml:"retry"` // ask again for a fetch that failed, and count it
	Args  []string           `yaml:"args"`  // further arguments of every daemon
	Sites []ScenarioSite     `yaml:"sites"`
	Steps []Step             `yaml:"steps"`
	Goals map[string]float64 `yaml:"goals"` // figure -> the most it should be
}

// ScenarioSite is a site with nodes called NAME1, NAME2 ...
type ScenarioSite struct {
	Name   string         `yaml:"name"`
	Nodes  int            `yaml:"nodes"`
	Rate   Rate           `yaml:"rate"`  // of each node's link, both ways
	Delay  time.Duration  `yaml:"delay"` // of each node's link, one way
	Uplink ScenarioUplink `yaml:"uplink"`
}

// ScenarioUplink is what joins a site to the others.
type ScenarioUplink struct {
	Rate  Rate          `yaml:"rate"`
	Delay time.Duration `yaml:"delay"`
}

// Step is one thing that happens. Exactly one field is set. Nodes are named
// one by one, by the name of their site, as "all", or as "others": all but the
// one that packed.
type Step struct {
	Start   Names         `yaml:"start"`   // nodes; all but the first know the first
	Pack    string        `yaml:"pack"`    // the content, on this node
	Fetch   Names         `yaml:"fetch"`   // all at once; goes on behind the next steps
	Until   *Until        `yaml:"until"`   // fetches have come so far
	Done    *Until        `yaml:"done"`    // fetches have ended well
	Verify  Names         `yaml:"verify"`  // every chunk and every file's hash
	Kill    Names         `yaml:"kill"`    // SIGKILL
	Restart Names         `yaml:"restart"` // with the same data
	Freeze  Names         `yaml:"freeze"`  // SIGSTOP
	Thaw    Names         `yaml:"thaw"`    // SIGCONT
	Lie     Names         `yaml:"lie"`     // the nodes end; peers with their identity answer wrong bytes
	Stall   Names         `yaml:"stall"`   // the nodes end; peers with their identity never answer
	Cut     Names         `yaml:"cut"`     // links: of a node, or of a site to the others
	Heal    Names         `yaml:"heal"`    // links
	Slow    *Slow         `yaml:"slow"`    // links
	Pause   time.Duration `yaml:"pause"`

	Replicate *Replicate `yaml:"replicate"` // a site keeps copies, and has them on nodes that run
}

// Replicate asks a node for copies of the content at its site.
type Replicate struct {
	Node   string        `yaml:"node"`
	Copies int           `yaml:"copies"`
	Within time.Duration `yaml:"within"` // 3 minutes if 0
}

// Until is how far some fetches must have come, and in what time.
type Until struct {
	Nodes   Names         `yaml:"nodes"`
	Percent float64       `yaml:"percent"` // of the bytes; each node
	Within  time.Duration `yaml:"within"`  // 3 minutes if 0
}

// Slow gives links another rate.
type Slow struct {
	Links Names `yaml:"links"`
	Rate  Rate  `yaml:"rate"`
}

// Names is a list of names; in a file one name may stand alone.
type Names []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (n *Names) UnmarshalYAML(v *yaml.Node) error {
	if v.Kind == yaml.ScalarNode {
		*n = Names{v.Value}
		return nil
	}
	return v.Decode((*[]string)(n))
}

// Size is a number of bytes, written as 16MiB.
type Size int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(v *yaml.Node) error {
	n, err := humanize.ParseBytes(v.Value)
	if err != nil || n > 1<<40 {
		return fmt.Errorf("line %d: %q is not a size, as in 16MiB", v.Line, v.Value)
	}
	*s = Size(n)
	return nil
}

// Rate is a number of bits per second, written as 100mbit.
type Rate int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (r *Rate) UnmarshalYAML(v *yaml.Node) (err error) {
	if *r, err = ParseRate(v.Value); err != nil {
		return fmt.Errorf("line %d: %w", v.Line, err)
	}
	return nil
}

// ParseRate reads a rate as tc does: 100mbit, 512kbit, 1gbit, 9600bit.
func ParseRate(s string) (Rate, error) {
	number, ok := strings.CutSuffix(strings.ToLower(s), "bit")
	factor := 1.0
	if ok && number != "" {
		switch number[len(number)-1] {
		case 'k':
			factor = 1e3
		case 'm':
			factor = 1e6
		case 'g':
			factor = 1e9
		}
		if factor > 1 {
			number = number[:len(number)-1]
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || n < 0 || n*factor > 1e12 {
		return 0, fmt.Errorf("%q is not a rate, as in 100mbit", s)
	}
	return Rate(n * factor), nil
}

func (r Rate) String() string {
	switch {
	case r == 0:
		return "no limit"
	case r >= 1e6:
		return strconv.FormatFloat(float64(r)/1e6, 'f', -1, 64) + " Mbit/s"
	}
	return strconv.FormatFloat(float64(r)/1e3, 'f', -1, 64) + " kbit/s"
}

//go:embed scenarios/*.yaml
var scenarioFiles embed.FS

// Scenarios returns the names of the scenarios that come with the program.
func Scenarios() []string {
	files, _ := fs.Glob(scenarioFiles, "scenarios/*.yaml") // the pattern is good
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(path.Base(f), ".yaml")
	}
	slices.Sort(names)
	return names
}

// LoadScenario reads a scenario: one that comes with the program by its name,
// or a file by its path, which contains a slash or ends in .yaml.
func LoadScenario(name string) (Scenario, error) {
	read := func() ([]byte, error) { return scenarioFiles.ReadFile("scenarios/" + name + ".yaml") }
	if strings.Contains(name, "/") || strings.HasSuffix(name, ".yaml") {
		read = func() ([]byte, error) { return os.ReadFile(name) }
	}
	data, err := read()
	if errors.Is(err, fs.ErrNotExist) {
		return Scenario{}, fmt.Errorf("no scenario %q: there are %s, or name a file", name, strings.Join(Scenarios(), ", "))
	}
	if err != nil {
		return Scenario{}, fmt.Errorf("read scenario: %w", err)
	}
	s, err := ParseScenario(data)
	if err != nil {
		return Scenario{}, fmt.Errorf("scenario %s: %w", name, err)
	}
	s.Name = strings.TrimSuffix(path.Base(name), ".yaml")
	return s, nil
}

// ParseScenario reads and checks a scenario. Unknown keys are refused.
func ParseScenario(data []byte) (Scenario, error) {
	var s Scenario
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&s); err != nil {
		return s, err
	}
	return s, s.check()
}

// config returns the network of the scenario.
func (s Scenario) fabric() fabric.Config {
	var cfg fabric.Config
	for _, site := range s.Sites {
		f := fabric.Site{Name: site.Name, Hosts: site.hosts(),
			Link:   fabric.Shape{BitsPerSecond: int64(site.Rate), Delay: site.Delay},
			Uplink: fabric.Shape{BitsPerSecond: int64(site.Uplink.Rate), Delay: site.Uplink.Delay}}
		cfg.Sites = append(cfg.Sites, f)
	}
	return cfg
}

func (s ScenarioSite) hosts() []string {
	names := make([]string, s.Nodes)
	for i := range names {
		names[i] = s.Name + strconv.Itoa(i+1)
	}
	return names
}
