package guard

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

// childAttributes give the child a process group of its own, so that what it
// leaves can be found, and end it in order when the guard dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// followGuard makes this process end in order when its guard dies. It was
// started so; but execve on a thread other than the first loses it, and so does
// an executable with capabilities.
func followGuard() {
	// The setting is the calling thread's, which lives as long as the process:
	// Go ends only threads whose goroutine was locked to them.
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0) // it cannot fail for a valid signal
	if !Child() {
		process.Die(syscall.SIGTERM) // the guard died before the call
	}
}
