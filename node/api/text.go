package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Names in an image are bytes, JSON strings are not. A field that is valid
// UTF-8 is written as it is. One that is not is written so that it can be read
// (a wrong byte as \xHH, a backslash doubled) and once more, exactly, as base64
// in a field of the same name with _bytes at its end, which wins when read.

// show returns the form of s for the eye, and its bytes if that form is not s.
func show(s string) (string, []byte) {
	if utf8.ValidString(s) {
		return s, nil
	}
	return Escape(s), []byte(s)
}

// Escape returns s with bytes that are not UTF-8 as \xHH and each backslash
// doubled.
func Escape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

func unshow(s string, raw []byte) string {
	if raw != nil {
		return string(raw)
	}
	return s
}

type entryJSON struct {
	Path        string  `json:"path"`
	PathBytes   []byte  `json:"path_bytes,omitempty"`
	Type        string  `json:"type"`
	Mode        uint32  `json:"mode"`
	UID         uint32  `json:"uid"`
	GID         uint32  `json:"gid"`
	Size        uint64  `json:"size"`
	Nlink       uint32  `json:"nlink"`
	Inode       uint32  `json:"inode"`
	Mtime       Time    `json:"mtime"`
	Btime       *Time   `json:"btime,omitempty"`
	Rdev        uint64  `json:"rdev,omitempty"`
	Target      string  `json:"target,omitempty"`
	TargetBytes []byte  `json:"target_bytes,omitempty"`
	Xattrs      []Xattr `json:"xattrs,omitempty"`
	Digest      string  `json:"sha256,omitempty"`
}

// MarshalJSON writes e with its paths as said above.
func (e Entry) MarshalJSON() ([]byte, error) {
	j := entryJSON{Type: e.Type, Mode: e.Mode, UID: e.UID, GID: e.GID, Size: e.Size, Nlink: e.Nlink, Inode: e.Inode,
		Mtime: e.Mtime, Btime: e.Btime, Rdev: e.Rdev, Xattrs: e.Xattrs, Digest: e.Digest}
	j.Path, j.PathBytes = show(e.Path)
	j.Target, j.TargetBytes = show(e.Target)
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *Entry) UnmarshalJSON(b []byte) error {
	var j entryJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*e = Entry{Path: unshow(j.Path, j.PathBytes), Type: j.Type, Mode: j.Mode, UID: j.UID, GID: j.GID, Size: j.Size,
		Nlink: j.Nlink, Inode: j.Inode, Mtime: j.Mtime, Btime: j.Btime, Rdev: j.Rdev,
		Target: unshow(j.Target, j.TargetBytes), Xattrs: j.Xattrs, Digest: j.Digest}
	return nil
}

type problemJSON struct {
	Path      string `json:"path"`
	PathBytes []byte `json:"path_bytes,omitempty"`
	Error     string `json:"error"`
}

// MarshalJSON writes p with its path as said above.
func (p Problem) MarshalJSON() ([]byte, error) {
	j := problemJSON{Error: p.Error}
	j.Path, j.PathBytes = show(p.Path)
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *Problem) UnmarshalJSON(b []byte) error {
	var j problemJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*p = Problem{Path: unshow(j.Path, j.PathBytes), Error: j.Error}
	return nil
}

type mountJSON struct {
	Dir        string    `json:"dir"`
	DirBytes   []byte    `json:"dir_bytes,omitempty"`
	FList      string    `json:"flist"`
	Name       string    `json:"name,omitempty"`
	Since      time.Time `json:"since"`
	ReadWrite  bool      `json:"read_write"`
	Upper      string    `json:"upper,omitempty"`
	UpperBytes []byte    `json:"upper_bytes,omitempty"`
	Problem    string    `json:"problem,omitempty"`
	Detached   bool      `json:"detached,omitempty"`
	BytesRead  uint64    `json:"bytes_read"`
	ReadErrors uint64    `json:"read_errors"`

	Requests map[string]uint64 `json:"requests,omitempty"`
	Chunks   ChunkOrigins      `json:"chunks"`
	Slowest  []SlowRead        `json:"slowest_reads,omitempty"`
}

// MarshalJSON writes m with its directory as said above.
func (m MountInfo) MarshalJSON() ([]byte, error) {
	j := mountJSON{FList: m.FList, Name: m.Name, Since: m.Since, ReadWrite: m.ReadWrite, Problem: m.Problem,
		Detached: m.Detached, BytesRead: m.BytesRead, ReadErrors: m.ReadErrors,
		Requests: m.Requests, Chunks: m.Chunks, Slowest: m.Slowest}
	j.Dir, j.DirBytes = show(m.Dir)
	j.Upper, j.UpperBytes = show(m.Upper)
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (m *MountInfo) UnmarshalJSON(b []byte) error {
	var j mountJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*m = MountInfo{Dir: unshow(j.Dir, j.DirBytes), FList: j.FList, Name: j.Name, Since: j.Since,
		ReadWrite: j.ReadWrite, Upper: unshow(j.Upper, j.UpperBytes), Problem: j.Problem, Detached: j.Detached,
		BytesRead: j.BytesRead, ReadErrors: j.ReadErrors, Requests: j.Requests, Chunks: j.Chunks, Slowest: j.Slowest}
	return nil
}

type slowJSON struct {
	Path      string    `json:"path"`
	PathBytes []byte    `json:"path_bytes,omitempty"`
	Offset    uint64    `json:"offset"`
	Millis    float64   `json:"ms"`
	At        time.Time `json:"at"`
	Failed    bool      `json:"failed,omitempty"`
}

// MarshalJSON writes r with its path as said above.
func (r SlowRead) MarshalJSON() ([]byte, error) {
	j := slowJSON{Offset: r.Offset, Millis: r.Millis, At: r.At, Failed: r.Failed}
	j.Path, j.PathBytes = show(r.Path)
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *SlowRead) UnmarshalJSON(b []byte) error {
	var j slowJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*r = SlowRead{Path: unshow(j.Path, j.PathBytes), Offset: j.Offset, Millis: j.Millis, At: j.At, Failed: j.Failed}
	return nil
}
