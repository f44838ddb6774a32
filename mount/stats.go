package mount

import "sync/atomic"

// op is a kind of request that is counted.
type op int

const (
	opLookup op = iota
	opGetAttr
	opStatx
	opReadlink
	opOpen
	opRead
	opLseek
	opOpenDir
	opReadDir
	opReadDirPlus
	opGetXAttr
	opListXAttr
	opStatFs
	opChange
	numOps
)

var opNames = [numOps]string{"lookup", "getattr", "statx", "readlink", "open", "read", "lseek", "opendir",
	"readdir", "readdirplus", "getxattr", "listxattr", "statfs", "change"}

type counters struct {
	ops                              [numOps]atomic.Uint64
	bytes, gets, failed, interrupted atomic.Uint64
}

func (c *counters) count(o op) { c.ops[o].Add(1) }

// Stats tells what a Mount has done since it was made.
type Stats struct {
	Requests    map[string]uint64 // by kind ("lookup", "read", ...); "change" is what was refused
	BytesRead   uint64            // sent to the kernel, holes included
	ChunkGets   uint64            // chunks asked of the Source
	ReadErrors  uint64            // reads that failed with EIO
	Interrupted uint64            // reads given up by their process
	Slowest     []SlowRead        // the slowest first
}

// Stats returns the counts so far.
func (m *Mount) Stats() Stats {
	s := Stats{
		Requests:  make(map[string]uint64, numOps),
		BytesRead: m.stats.bytes.Load(), ChunkGets: m.stats.gets.Load(),
		ReadErrors: m.stats.failed.Load(), Interrupted: m.stats.interrupted.Load(),
		Slowest: m.slow.slowest(),
	}
	for i, name := range opNames {
		s.Requests[name] = m.stats.ops[i].Load()
	}
	return s
}
