package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// fileValue is what the configuration file says about one setting: a scalar,
// or a list.
type fileValue struct {
	line   int
	scalar string
	list   []string // nil for a scalar
}

// apply gives v to a flag.
func (v fileValue) apply(to pflag.Value) error {
	if v.list == nil {
		return to.Set(v.scalar)
	}
	sv, ok := to.(pflag.SliceValue)
	if !ok {
		return fmt.Errorf("is a list, want one value")
	}
	return sv.Replace(v.list)
}

// parseFile reads a configuration file: a flat YAML mapping from the names of
// settings to scalars and lists of scalars. Anything else is an error that
// names the line.
func parseFile(path string, data []byte, known []string) (map[string]fileValue, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, settingf("configuration file %s: %w", path, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil // empty, or only comments
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, settingf("configuration file %s, line %d: want lines of the form \"key: value\"", path, top.Line)
	}
	values := make(map[string]fileValue)
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		fail := func(format string, args ...any) error {
			return settingf("configuration file %s, line %d: %s", path, key.Line, fmt.Sprintf(format, args...))
		}
		if !slices.Contains(known, key.Value) {
			return nil, withHint(fail("unknown key %q", key.Value), "Known keys: "+strings.Join(known, ", ")+".")
		}
		if _, twice := values[key.Value]; twice {
			return nil, fail("key %q is given twice", key.Value)
		}
		v, err := readValue(value)
		if err != nil {
			return nil, fail("%s: %v", key.Value, err)
		}
		values[key.Value] = v
	}
	return values, nil
}

func readValue(n *yaml.Node) (fileValue, error) {
	v := fileValue{line: n.Line}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		v.scalar = n.Value
		return v, nil
	case n.Kind == yaml.SequenceNode:
		v.list = []string{}
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return v, fmt.Errorf("line %d: want a list of plain values", item.Line)
			}
			v.list = append(v.list, item.Value)
		}
		return v, nil
	default:
		return v, fmt.Errorf("want a value or a list of values")
	}
}
