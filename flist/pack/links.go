package pack

import (
	"sync"

	"github.com/flistnode/flistnode/flist"
)

// links remembers inodes with several names under which they were added. The
// sequencer writes; readers look, to spare reading such a file again.
type links struct {
	mu     sync.RWMutex
	inodes map[fileID]flist.Inode
}

func newLinks() *links { return &links{inodes: map[fileID]flist.Inode{}} }

func (l *links) get(id fileID) (flist.Inode, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	ino, ok := l.inodes[id]
	return ino, ok
}

func (l *links) put(id fileID, ino flist.Inode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inodes[id] = ino
}
