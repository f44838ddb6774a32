package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Most of what a daemon holds are chunks without pointers, and its memory is
// what others on the machine miss. So a large heap grows little between two
// collections. A small one, as while chunks are fetched and kept, may grow
// more: it is written anew many times a second, and each collection costs the
// same.
const (
	leastGCPercent = 30       // for a large heap
	mostGCPercent  = 400      // for a small one
	roomyHeapBytes = 56 << 20 // up to which a small one may grow
)

// paceCollector sets from now on, after each collection, how much the heap may
// grow until the next. It leaves a choice of the environment alone.
func paceCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(leastGCPercent)
	watchCollector(leastGCPercent)
}

// watchCollector sets the percentage when the next collection has ended, and
// watches on. percent is the one in force.
func watchCollector(percent int) {
	// What nothing refers to is cleaned up by the next collection.
	runtime.AddCleanup(new([32]byte), func(percent int) {
		found := []metrics.Sample{
			{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
		}
		metrics.Read(found)
		live := found[0].Value.Uint64()
		if next := gcPercent(live, live+found[1].Value.Uint64()+found[2].Value.Uint64()); next != percent {
			debug.SetGCPercent(next)
			percent = next
		}
		watchCollector(percent)
	}, percent)
}

// gcPercent is how much a heap of which so many bytes are live may grow, as a
// share of the bytes that Go counts as what a collection looks at; in steps of
// 10, so that it is seldom set.
func gcPercent(live, counted uint64) int {
	room := (roomyHeapBytes - int64(live)) * 100 / max(int64(counted), 1) / 10 * 10
	return int(min(max(room, leastGCPercent), mostGCPercent))
}
