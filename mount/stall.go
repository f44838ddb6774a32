package mount

import (
	"sync"
	"sync/atomic"
	"time"
)

// stalls remembers for a short while which chunks could not be had. When a
// readahead fails, the kernel asks for the same pages again, and then for the
// one page alone; without this memory a reader would wait three times the
// ReadTimeout, and every failure would be logged three times.
type stalls struct {
	some atomic.Bool // fast path: nothing is remembered
	mu   sync.Mutex
	at   map[uint32]time.Time // chunk -> when it failed
}

const (
	stallMemory   = 5 * time.Second
	stallPatience = 500 * time.Millisecond // wait for a chunk that has just failed
	maxStalls     = 1024
)

// recent reports whether the chunk failed within stallMemory.
func (s *stalls) recent(chunk uint32) bool {
	if !s.some.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.at[chunk]
	if ok && time.Since(at) > stallMemory {
		s.drop(chunk)
		return false
	}
	return ok
}

// add remembers a failure and reports whether it is news.
func (s *stalls) add(chunk uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.at[chunk]; ok && time.Since(at) <= stallMemory {
		return false
	}
	if s.at == nil || len(s.at) >= maxStalls {
		s.at = make(map[uint32]time.Time)
	}
	s.at[chunk] = time.Now()
	s.some.Store(true)
	return true
}

// clear forgets a chunk that has come after all.
func (s *stalls) clear(chunk uint32) {
	if s.some.Load() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drop(chunk)
	}
}

func (s *stalls) drop(chunk uint32) {
	delete(s.at, chunk)
	s.some.Store(len(s.at) > 0)
}
