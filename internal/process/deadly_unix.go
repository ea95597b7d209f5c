//go:build unix && !linux

package process

import (
	"os"
	"os/signal"
	"syscall"
)

// makeDeadly makes every SIGTERM and SIGINT from now on end the process. Those
// that came before have reached the ones who listen for them.
func makeDeadly() {
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, syscall.SIGTERM, syscall.SIGINT)
	signal.Stop(arrived) // waits until what has arrived is handed on
	signal.Reset(os.Interrupt, syscall.SIGTERM)
}
