package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a process of the network, a node or another peer.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended; then err is set
	err   error
}

// placer calls a function on a thread whose children are in the right place,
// a host's namespace for example.
type placer func(start func() error) error

// anywhere is the place of this process.
func anywhere(start func() error) error { return start() }

// startProcess starts a program whose stderr goes to the end of the file
// logPath and whose stdout goes to stdout, if not nil. It is not bound to ctx,
// so that it can end in order.
func startProcess(ctx context.Context, in placer, binary string, args []string, logPath string, stdout io.Writer) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close() // the process has its own descriptor
	p := &process{ended: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), binary, args...)
	p.cmd.Stderr, p.cmd.Stdout = log, stdout
	// A process group of its own: ctrl-C in a terminal goes to us alone. And
	// no process outlives a testnet that was killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := in(p.cmd.Start); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// PID returns the process ID.
func (p *process) PID() int { return p.cmd.Process.Pid }

// Ended reports whether the process has ended.
func (p *process) Ended() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Freeze stops the process where it is, as SIGSTOP does: its connections stay
// and nothing answers.
func (p *process) Freeze() error { return p.signal(syscall.SIGSTOP) }

// Thaw ends a Freeze.
func (p *process) Thaw() error { return p.signal(syscall.SIGCONT) }

// terminate sends the process, frozen or not, a signal to end.
func (p *process) terminate(s syscall.Signal) error {
	return errors.Join(p.signal(s), p.signal(syscall.SIGCONT))
}

func (p *process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s to process %d: %w", s, p.PID(), err)
	}
	return nil
}

// kill ends the process with SIGKILL and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended
	<-p.ended
}

// CPU returns the processor time the process has used, user and system.
func (p *process) CPU() time.Duration {
	if p.Ended() {
		return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0 // it ends just now
	}
	// The command's name may hold anything; fields 14 and 15 of proc(5) are
	// the 12th and 13th after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ is 100 everywhere
}

// tail returns the last lines of a file.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 4 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // else the whole log is shown
	}
	var buf bytes.Buffer
	_, _ = io.Copy(&buf, f)
	return strings.TrimSpace(buf.String())
}
