package flist

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// u32s and u64s are columns of little-endian numbers, used where they lie.
type (
	u32s []byte
	u64s []byte
)

func (c u32s) at(i int) uint32 { return binary.LittleEndian.Uint32(c[i*4:]) }
func (c u32s) len() int        { return len(c) / 4 }
func (c u64s) at(i int) uint64 { return binary.LittleEndian.Uint64(c[i*8:]) }
func (c u64s) len() int        { return len(c) / 8 }

// spans is a column of spans.
type spans []byte

// span is a run of records of another table.
type span struct{ first, n uint32 }

func (c spans) at(i int) span {
	b := c[i*8:]
	return span{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}
}
func (c spans) len() int { return len(c) / 8 }

// column collects a column while an flist is built: in memory up to
// columnMemory bytes, beyond that in an unlinked temporary file.
type column struct {
	dir string
	mem []byte
	f   *os.File
	off int64 // bytes in f
}

const columnMemory = 1 << 20

func (c *column) u32(v uint32) error   { return c.spill(binary.LittleEndian.AppendUint32(c.mem, v)) }
func (c *column) u64(v uint64) error   { return c.spill(binary.LittleEndian.AppendUint64(c.mem, v)) }
func (c *column) bytes(b []byte) error { return c.spill(append(c.mem, b...)) }
func (c *column) text(b []byte) error  { return c.spill(append(append(c.mem, b...), 0)) }

func (c *column) spill(mem []byte) error {
	c.mem = mem
	if len(mem) < columnMemory {
		return nil
	}
	if c.f == nil {
		f, err := os.CreateTemp(c.dir, "flist-table-*")
		if err != nil {
			return fmt.Errorf("temporary file for tables: %w", err)
		}
		c.f = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("temporary file for tables: %w", err)
		}
	}
	if _, err := c.f.WriteAt(mem, c.off); err != nil {
		return fmt.Errorf("temporary file for tables: %w", err)
	}
	c.off += int64(len(mem))
	c.mem = mem[:0]
	return nil
}

func (c *column) size() int64 { return c.off + int64(len(c.mem)) }

// reader gives the column from its begin on.
func (c *column) reader() io.Reader {
	if c.f == nil {
		return bytes.NewReader(c.mem)
	}
	return io.MultiReader(io.NewSectionReader(c.f, 0, c.off), bytes.NewReader(c.mem))
}

func (c *column) close() error {
	if c.f == nil {
		return nil
	}
	return c.f.Close()
}
