package mount

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// BusyError says who keeps a mount from being unmounted.
type BusyError struct {
	Dir     string
	Holders []Holder // at most maxHolders; only those this user may look into
	Mounts  []string // mount points inside Dir
}

// Holder is a process that uses a mount.
type Holder struct {
	PID     int
	Command string // as in ps -o comm
	Use     string // "working directory", "root directory", "open file", "mapped file" and the path
}

func (e *BusyError) Error() string {
	var why []string
	if len(e.Holders) > 0 {
		why = append(why, "used by "+describe(e.Holders))
	}
	if len(e.Mounts) > 0 {
		why = append(why, "mounted inside: "+strings.Join(e.Mounts, ", "))
	}
	if len(why) == 0 {
		why = []string{"used by a process that cannot be looked into"}
	}
	return fmt.Sprintf("%s is busy: %s: end them or use umount --lazy", e.Dir, strings.Join(why, "; "))
}

func describe(holders []Holder) string {
	var list []string
	for _, h := range holders {
		list = append(list, fmt.Sprintf("%s (pid %d, %s)", h.Command, h.PID, h.Use))
	}
	return strings.Join(list, ", ")
}

const maxHolders = 16

// findHolders looks through /proc for processes that use files below dir. It
// reads links and never the files themselves, so that it cannot block.
func findHolders(dir string) []Holder {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var holders []Holder
	for _, proc := range procs {
		use := useOf(proc, dir)
		if use == "" {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(proc))
		comm, _ := os.ReadFile(proc + "/comm")
		holders = append(holders, Holder{PID: pid, Command: strings.TrimSpace(string(comm)), Use: use})
		if len(holders) == maxHolders {
			break
		}
	}
	return holders
}

// useOf says how a process uses what is below dir; empty if it does not.
func useOf(proc, dir string) string {
	for name, use := range map[string]string{"cwd": "working directory", "root": "root directory"} {
		if path, err := os.Readlink(proc + "/" + name); err == nil && within(path, dir) {
			return use + " " + path
		}
	}
	fds, _ := os.ReadDir(proc + "/fd")
	for _, fd := range fds {
		if path, err := os.Readlink(proc + "/fd/" + fd.Name()); err == nil && within(path, dir) {
			return "open file " + path
		}
	}
	return mappedIn(proc, dir)
}

func mappedIn(proc, dir string) string {
	f, err := os.Open(proc + "/maps")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if i := strings.IndexByte(lines.Text(), '/'); i >= 0 && within(lines.Text()[i:], dir) {
			return "mapped file " + lines.Text()[i:]
		}
	}
	return ""
}
