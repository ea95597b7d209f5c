//go:build unix

package process

import (
	"os"
	"os/signal"
	"syscall"
)

// Die ends the process as the signal would have if nobody had listened, so that
// a service manager sees what it expects. It does not return.
func Die(s os.Signal) {
	signal.Reset(s)
	if number, ok := s.(syscall.Signal); ok {
		_ = syscall.Kill(os.Getpid(), number)
	}
	select {} // the signal is on its way
}
