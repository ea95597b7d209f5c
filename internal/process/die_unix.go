//go:build unix

package process

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Die ends the process as the signal would have if nobody had listened, so that
// a service manager sees what it expects, or as a shell shows that. It does not return.
func Die(s os.Signal) {
	number, _ := s.(syscall.Signal)
	if os.Getpid() == 1 { // immune to signals of its own
		os.Exit(128 + int(number)) //nolint:forbidigo // this is what it is for
	}
	signal.Reset(s)
	_ = syscall.Kill(os.Getpid(), number)
	// The signal is on its way, unless it was ignored when the process started.
	time.Sleep(time.Second)
	os.Exit(128 + int(number)) //nolint:forbidigo // this is what it is for
}
