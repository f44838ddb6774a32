package testnet

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Bounds of a scenario: more is not what one machine runs.
const (
	maxScenarioNodes = 64
	maxScenarioSize  = 64 << 30
)

// check says what is wrong with a scenario.
func (s Scenario) check() error {
	if s.Size <= 0 || s.Size > maxScenarioSize {
		return fmt.Errorf("size of %d bytes: want 1 to %d", s.Size, int64(maxScenarioSize))
	}
	count := 0
	for _, site := range s.Sites {
		if site.Nodes < 1 {
			return fmt.Errorf("site %q has no nodes", site.Name)
		}
		count += site.Nodes
	}
	if count == 0 || count > maxScenarioNodes {
		return fmt.Errorf("%d nodes: want 1 to %d", count, maxScenarioNodes)
	}
	if s.packer() == "" {
		return errors.New("no step packs anything")
	}
	for name := range s.Goals {
		if !s.isFigure(name) {
			return fmt.Errorf("goals: no figure %q", name)
		}
	}
	for i, step := range s.Steps {
		if err := s.checkStep(step); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

// isFigure reports whether Result.Figures may have one of that name.
func (s Scenario) isFigure(name string) bool {
	for _, prefix := range []string{figUplinkIn, figUplinkOut, figChunksIn} {
		if site, ok := strings.CutPrefix(name, prefix); ok {
			return slices.ContainsFunc(s.Sites, func(x ScenarioSite) bool { return x.Name == site && x.Uplink != ScenarioUplink{} })
		}
	}
	return slices.Contains(figureNames, name)
}

func (s Scenario) checkStep(step Step) error {
	verb := step.verb()
	if verb == "" {
		return errors.New("want exactly one thing to do")
	}
	for _, names := range []Names{step.Start, step.Fetch, step.Verify, step.Kill, step.Restart, step.Freeze, step.Thaw,
		step.Lie, step.Stall, untilNodes(step.Until), untilNodes(step.Done), {step.Pack}, replicateNode(step.Replicate)} {
		if _, err := s.nodes(names); err != nil {
			return fmt.Errorf("%s: %w", verb, err)
		}
	}
	links := append(append(Names{}, step.Cut...), step.Heal...)
	if step.Slow != nil {
		links = append(links, step.Slow.Links...)
	}
	for _, l := range links {
		if !slices.Contains(s.linkNames(), l) {
			return fmt.Errorf("%s: no node or site %q", verb, l)
		}
	}
	if step.Until != nil && (step.Until.Percent <= 0 || step.Until.Percent > 100) {
		return fmt.Errorf("until: %g percent: want more than 0, at most 100", step.Until.Percent)
	}
	if r := step.Replicate; r != nil && (r.Node == "" || r.Copies < 1 || r.Copies > maxScenarioNodes) {
		return fmt.Errorf("replicate: %d copies on node %q: want 1 to %d, and a node", r.Copies, r.Node, maxScenarioNodes)
	}
	return nil
}

func replicateNode(r *Replicate) Names {
	if r == nil {
		return nil
	}
	return Names{r.Node}
}

func untilNodes(u *Until) Names {
	if u == nil {
		return nil
	}
	return u.Nodes
}

// verb returns the key of the one field that is set, "" if there is not one.
func (s Step) verb() string {
	v, name := reflect.ValueOf(s), ""
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			continue
		}
		if name != "" {
			return ""
		}
		name = v.Type().Field(i).Tag.Get("yaml")
	}
	return name
}

// packer returns the node that packs the content.
func (s Scenario) packer() string {
	for _, step := range s.Steps {
		if step.Pack != "" {
			return step.Pack
		}
	}
	return ""
}

func (s Scenario) nodeNames() []string {
	var all []string
	for _, site := range s.Sites {
		all = append(all, site.hosts()...)
	}
	return all
}

func (s Scenario) linkNames() []string {
	all := s.nodeNames()
	for _, site := range s.Sites {
		all = append(all, site.Name)
	}
	return all
}

// nodes returns the nodes that names stand for, each once, in the order of the
// scenario's sites.
func (s Scenario) nodes(names Names) ([]string, error) {
	all, want := s.nodeNames(), map[string]bool{}
	for _, name := range names {
		group := []string{name}
		switch {
		case name == "":
			continue
		case name == "all":
			group = all
		case name == "others":
			group = slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == s.packer() })
		case !slices.Contains(all, name):
			i := slices.IndexFunc(s.Sites, func(site ScenarioSite) bool { return site.Name == name })
			if i < 0 {
				return nil, fmt.Errorf("no node or site %q", name)
			}
			group = s.Sites[i].hosts()
		}
		for _, n := range group {
			want[n] = true
		}
	}
	return slices.DeleteFunc(all, func(n string) bool { return !want[n] }), nil
}
