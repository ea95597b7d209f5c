//go:build unix

package process

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/otelcol-opamp/otelcol-opamp/internal/failpoint"
)

// CanReexec reports whether [Reexec] can work on this system.
const CanReexec = true

func closeOnExec(fd uintptr) { unix.CloseOnExec(int(fd)) }

// Reexec replaces the process by a new one of the same executable, in the same
// PID. It returns only if it fails. The caller has stopped what must not be cut
// off. From here on SIGTERM and SIGINT end the process, and SIGHUP is ignored
// until the successor listens for it.
func Reexec(s Successor) error {
	if failpoint.Hit("process.reexec") != nil {
		return ErrNoReexec // as on a system without execve
	}
	path, err := Executable()
	if err != nil {
		return fmt.Errorf("finding the executable to replace the process with: %w", err)
	}
	env, err := s.environment()
	if err != nil {
		return err
	}
	args := os.Args
	if s.Args != nil {
		args = append([]string{os.Args[0]}, s.Args...)
	}
	makeDeadly()
	signal.Ignore(syscall.SIGHUP)
	if s.Told != nil {
		if told := s.Told(); told != nil {
			Die(told)
		}
	}
	var errs []error
	for name, f := range s.Keep {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			errs = append(errs, fmt.Errorf("keeping %q open: %w", name, err))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, fmt.Errorf("replacing the process by %q: %w", path, unix.Exec(path, args, env)))
	}
	for _, f := range s.Keep {
		unix.CloseOnExec(int(f.Fd()))
	}
	return errors.Join(errs...)
}
