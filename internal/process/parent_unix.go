//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// tellAgain is the time between two signals of [TellToEnd].
const tellAgain = 100 * time.Millisecond

// Parent is a process whose end should end this one: its parent, or one that
// stands further above. It is not safe for concurrent use.
type Parent struct {
	pid int
	// process is nil for the very parent: the system gives a child whose parent
	// has ended another one, whatever becomes of the ID.
	process *os.Process
}

// FindParent looks for the process with an ID. One that has ended is no error:
// see [Parent.Gone]. The caller must Close it.
func FindParent(pid int) (*Parent, error) {
	switch os.Getppid() {
	case pid:
		return &Parent{pid: pid}, nil
	case 0:
		return nil, ErrForeignParent
	}
	p := &Parent{pid: pid}
	if younger(pid) {
		// Whoever had the ID when this process was started has ended.
		return p, nil
	}
	var err error
	// On Linux this is a handle that a later process with the same ID is not.
	if p.process, err = os.FindProcess(pid); err != nil {
		return nil, fmt.Errorf("looking for process %d: %w", pid, err)
	}
	return p, nil
}

// Gone reports whether the process has ended.
func (p *Parent) Gone() bool {
	if p.process == nil {
		return os.Getppid() != p.pid
	}
	err := p.process.Signal(syscall.Signal(0)) // any other error, such as a lack of permission, tells that it lives
	return errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH)
}

// Close forgets the process. It must not be used any more.
func (p *Parent) Close() {
	if p.process != nil {
		_ = p.process.Release() // there is nothing that could be done
	}
}

// TellToEnd sends SIGTERM to this process, again and again until ctx ends: the
// Collector does not listen while it starts. Until then SIGTERM does not kill the
// process by itself.
func TellToEnd(ctx context.Context) error {
	taken := make(chan os.Signal, 1)
	signal.Notify(taken, syscall.SIGTERM)
	defer signal.Stop(taken)
	for {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return fmt.Errorf("sending SIGTERM to this process: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tellAgain):
		}
	}
}
