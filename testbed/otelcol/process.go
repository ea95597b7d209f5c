// Package otelcol runs a real Collector binary as a child process and watches it
// from outside: its output with times, its exit, its memory, descriptors, threads
// and children.
//
// A [Process] runs in a session and process group of its own (on Unix), so that a
// test can make sure that nothing is left behind. It inherits only a few
// environment variables: results must not depend on the developer's shell.
//
// All methods of [Process] are safe for concurrent use. The readers of /proc
// return [errors.ErrUnsupported] on systems other than Linux.
package otelcol

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"
)

const (
	// defaultKeepLog holds hours of a Collector's usual output.
	defaultKeepLog = 64 << 20
	// drainTime is how long output is still read after the exit: what the process
	// wrote is there at once; only a child that inherited the pipe makes it wait.
	drainTime = time.Second
)

// errKilled is part of the error of a Stop that had to kill.
var errKilled = errors.New("did not end after SIGTERM and was killed")

// Settings says what to run.
type Settings struct {
	// Binary is the path of the executable.
	Binary string
	// Args are the arguments without the name of the program.
	Args []string
	// Env are variables ("NAME=value") beside the few that are always inherited:
	// PATH, HOME, TMPDIR, GOCOVERDIR and what Windows cannot do without.
	Env []string
	// Dir is the working directory, the caller's when empty.
	Dir string
	// LogTo receives every line of output as it comes, from one goroutine. It may
	// be nil.
	LogTo io.Writer
	// KeepLog bounds the memory for output, in bytes, 64 MiB when zero. The oldest
	// lines are forgotten first.
	KeepLog int
}

// Process is a child process. Whoever starts it must wait for its end, usually
// with [Process.Stop].
type Process struct {
	cmd     *exec.Cmd
	pid     int
	started time.Time
	log     *logBuffer
	// exited is closed when the process has ended and its output is complete.
	exited chan struct{}

	mu sync.Mutex
	// mu guards everything below.
	reaped   bool
	exitedAt time.Time
}

// inherited are the variables that pass from the caller to the process.
func inherited() []string {
	return []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR", "SYSTEMROOT", "TEMP", "TMP"}
}

// Start runs the binary.
func Start(s Settings) (*Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", s.Binary, err)
	}
	// Not CommandContext: the life of the process is not tied to that of a call.
	cmd := exec.Command(s.Binary, s.Args...) //nolint:gosec,noctx // what the test wants to run
	cmd.Dir = s.Dir
	for _, name := range inherited() {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, s.Env...)
	// One pipe of our own for both: lines keep their order, and waiting for the
	// process does not wait for children that inherited the pipe.
	cmd.Stdout, cmd.Stderr = w, w
	isolate(cmd)
	err = cmd.Start()
	_ = w.Close() // the process has it now; there is nothing unwritten here
	if err != nil {
		_ = r.Close() // nothing was read from it
		return nil, fmt.Errorf("starting %s: %w", s.Binary, err)
	}
	p := &Process{
		cmd:     cmd,
		pid:     cmd.Process.Pid,
		started: time.Now(),
		log:     newLogBuffer(s.LogTo, cmp.Or(s.KeepLog, defaultKeepLog)),
		exited:  make(chan struct{}),
	}
	go p.watch(r)
	return p, nil
}

// watch reads the output until the process and its output have ended. It is
// waited for by way of exited.
func (p *Process) watch(r *os.File) {
	defer close(p.exited)
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.log.readFrom(r)
	}()
	_ = p.cmd.Wait() // the exit code is in ProcessState
	p.mu.Lock()
	p.reaped = true
	p.exitedAt = time.Now()
	p.mu.Unlock()
	_ = r.SetReadDeadline(time.Now().Add(drainTime)) // where it is not supported, the pipe's end is awaited
	<-read
	_ = r.Close() // only read from
	p.log.end()
}

// PID is the process ID, which is also the ID of the group and of the session.
func (p *Process) PID() int { return p.pid }

// Started is when the process was started.
func (p *Process) Started() time.Time { return p.started }

// Exited is closed when the process has ended and its output has been read.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitedAt is when the process ended, the zero time while it runs.
func (p *Process) ExitedAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exitedAt
}

// Wait waits until the process has ended and returns its exit code. For a process
// ended by a signal that is 128 and the number of the signal, as in a shell.
func (p *Process) Wait(ctx context.Context) (code int, err error) {
	select {
	case <-p.exited:
		return exitCode(p.cmd.ProcessState), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for process %d to end: %w\n%s", p.pid, context.Cause(ctx), p.log.tail())
	}
}

// Signal sends a signal to the process alone. It fails once the process has ended.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("sending %s to process %d: %w", sig, p.pid, err)
	}
	return nil
}

// Kill ends the process alone, not its children, without giving it a chance to
// react. It does not wait.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing process %d: %w", p.pid, err)
	}
	return nil
}

// KillAll kills the process and everything that Leftovers finds. It does not wait
// for the ends and is no error when there is nothing.
func (p *Process) KillAll() error {
	var errs []error
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, p.killLeftovers())...)
}

// Stop asks the process to end (SIGTERM), and kills it and its whole group when
// ctx ends first, which is an error. It returns after the end of the process; one
// that had ended before is fine. Children that outlive the process are left for
// Leftovers to find.
func (p *Process) Stop(ctx context.Context) error {
	if err := terminate(p.cmd.Process); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(fmt.Errorf("stopping process %d: %w", p.pid, err), p.killAndWait())
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
	}
	// The text first: it shows where the process was stuck.
	err := fmt.Errorf("stopping process %d: %w\n%s", p.pid, errKilled, p.log.tail())
	return errors.Join(err, p.killAndWait())
}

func (p *Process) killAndWait() error {
	err := p.KillAll()
	<-p.exited // not bounded by a context: the kernel ends it, and drainTime the output
	return err
}

// hasEnded reports whether the process has been reaped, so that its ID may belong
// to another one.
func (p *Process) hasEnded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reaped
}

// Log returns the output that is kept, one line per line.
func (p *Process) Log() string { return p.log.text() }

// Lines returns the output that is kept, with times. The slice belongs to the
// caller.
func (p *Process) Lines() []Line { return slices.Clone(p.log.from(0)) }

// LogMark is the index that the next line will have: pass it to WaitLogAfter to
// see only what comes after this call.
func (p *Process) LogMark() int { return p.log.mark() }

// WaitLog waits until a line of the output contains the text, from the beginning.
// It fails at once when the process ends without one. The error shows the last
// lines.
func (p *Process) WaitLog(ctx context.Context, text string) error {
	_, err := p.WaitLogAfter(ctx, 0, text)
	return err
}

// WaitLogAfter is WaitLog for lines with index from and later. It returns the
// line.
func (p *Process) WaitLogAfter(ctx context.Context, from int, text string) (Line, error) {
	line, err := p.log.wait(ctx, from, text)
	if err != nil {
		return Line{}, fmt.Errorf("waiting for process %d to log %q: %w\n%s", p.pid, text, err, p.log.tail())
	}
	return line, nil
}
