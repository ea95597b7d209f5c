//go:build unix

package process

import (
	"os/signal"
	"syscall"
)

// IgnoreHangup makes SIGHUP harmless until the Collector listens for it: between
// the first Retrieve and then it would kill the process.
func IgnoreHangup() { signal.Ignore(syscall.SIGHUP) }
