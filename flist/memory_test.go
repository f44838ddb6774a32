package flist_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/flistnode/flistnode/flist/chunk"
)

// memory is a Source and Sink in memory.
type memory struct {
	mu     sync.Mutex
	chunks map[chunk.ID][]byte
}

func newMemory() *memory { return &memory{chunks: map[chunk.ID][]byte{}} }

func (m *memory) Put(_ context.Context, p chunk.Packed) error {
	data, err := p.Open()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chunks[p.ID] = append([]byte(nil), data...)
	return nil
}

func (m *memory) Get(_ context.Context, id chunk.ID) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if data, ok := m.chunks[id]; ok {
		return data, nil
	}
	return nil, fmt.Errorf("%s: %w", id, chunk.ErrNotFound)
}
