package unpack

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/flistnode/flistnode/flist"
	"golang.org/x/sys/unix"
)

// maxPaths is how many paths a Problem names.
const maxPaths = 8

// losses collects what could not be restored, by kind.
type losses struct {
	mu     sync.Mutex
	byWhat map[string]*Problem
}

func (l *losses) add(what, path string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byWhat == nil {
		l.byWhat = map[string]*Problem{}
	}
	p := l.byWhat[what]
	if p == nil {
		p = &Problem{What: what, Err: err}
		l.byWhat[what] = p
	}
	p.Count++
	if len(p.Paths) < maxPaths {
		p.Paths = append(p.Paths, path)
	}
}

// problems returns the kinds sorted by name, each with its paths sorted.
func (l *losses) problems() []Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Problem
	for p := range maps.Values(l.byWhat) {
		slices.Sort(p.Paths)
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b Problem) int { return cmp.Compare(a.What, b.What) })
	return all
}

// missingRights are the errors of a lack of rights or of support, which
// without root are a loss and no failure.
var missingRights = []error{unix.EPERM, unix.EACCES, unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS, unix.E2BIG, unix.ERANGE}

// lose notes that something of ino could not be restored because of err, or
// returns an error where that is none to be passed over.
func (r *run) lose(what string, ino flist.Inode, err error) error {
	lack := slices.ContainsFunc(missingRights, func(e error) bool { return errors.Is(err, e) })
	if r.strict || !lack {
		return fmt.Errorf("restore %s: %w", what, err)
	}
	r.losses.add(what, r.path(ino), err)
	return nil
}
