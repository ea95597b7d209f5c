package guard

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

// childAttributes give the child a process group of its own, so that what it
// leaves can be found, and end it in order when the guard dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// followGuard reports whether this process is the child of a guard, and makes it
// end in order when that dies. It was started so; but execve on a thread other
// than the first loses it, and so does an executable with capabilities.
func followGuard() bool {
	// The setting is the calling thread's, which lives as long as the process:
	// Go ends only threads whose goroutine was locked to them.
	was := Child()
	if was {
		_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0) // it cannot fail for a valid signal
	}
	_, reexecuted := process.FromFormer()
	if !Child() && (was || reexecuted && os.Getenv(Env) != "") {
		// The guard died when it could not tell. Only a guard's child is
		// re-executed with the variable: a guard never is.
		process.Die(syscall.SIGTERM)
	}
	return was
}
