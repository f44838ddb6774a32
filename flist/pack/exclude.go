package pack

import (
	"fmt"
	"path"
	"strings"
)

// Excluder says which entries to leave out. Patterns are a part of those of
// .gitignore:
//
//   - A pattern with a slash at its beginning or in its middle is matched
//     against the whole path from the top of the tree; any other against the
//     last name, at any depth.
//   - A slash at the end restricts the pattern to directories.
//   - *, ? and [a-z] match as in path.Match and never match a slash; ** as a
//     whole name matches any number of names, also none.
//
// What lies in an excluded directory is excluded with it. There is no
// negation. Names are bytes; ? matches one UTF-8 character, or one byte that
// is not part of one.
type Excluder struct {
	names []pattern // matched against the last name
	paths []pattern // matched against the whole path
}

type pattern struct {
	parts    []string
	dirsOnly bool
}

// NewExcluder parses patterns. It fails on one that is empty or malformed.
func NewExcluder(patterns []string) (*Excluder, error) {
	e := &Excluder{}
	for _, s := range patterns {
		body, dirsOnly := strings.CutSuffix(s, "/")
		trimmed := strings.TrimPrefix(body, "/")
		if trimmed == "" {
			return nil, fmt.Errorf("exclude pattern %q names nothing", s)
		}
		p := pattern{parts: strings.Split(trimmed, "/"), dirsOnly: dirsOnly}
		for _, part := range p.parts {
			if _, err := path.Match(part, ""); err != nil || part == "" {
				return nil, fmt.Errorf("exclude pattern %q is malformed", s)
			}
		}
		if strings.Contains(body, "/") {
			e.paths = append(e.paths, p)
		} else {
			e.names = append(e.names, p)
		}
	}
	return e, nil
}

// Match reports whether the entry name of the directory whose path from the
// top is dir (names; empty for the root) is to be left out.
func (e *Excluder) Match(dir []string, name string, isDir bool) bool {
	for _, p := range e.names {
		if (isDir || !p.dirsOnly) && (p.parts[0] == "**" || matchName(p.parts[0], name)) {
			return true
		}
	}
	if len(e.paths) == 0 {
		return false
	}
	full := append(dir[:len(dir):len(dir)], name)
	for _, p := range e.paths {
		if (isDir || !p.dirsOnly) && matchPath(p.parts, full) {
			return true
		}
	}
	return false
}

// needsPath reports whether Match looks at dir.
func (e *Excluder) needsPath() bool { return len(e.paths) > 0 }

func (e *Excluder) empty() bool { return len(e.paths) == 0 && len(e.names) == 0 }

func matchPath(parts, names []string) bool {
	for len(parts) > 0 && parts[0] != "**" {
		if len(names) == 0 || !matchName(parts[0], names[0]) {
			return false
		}
		parts, names = parts[1:], names[1:]
	}
	if len(parts) == 0 {
		return len(names) == 0
	}
	for i := range len(names) + 1 {
		if matchPath(parts[1:], names[i:]) {
			return true
		}
	}
	return false
}

func matchName(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}
