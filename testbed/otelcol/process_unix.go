//go:build unix

package otelcol

import (
	"os"
	"os/exec"
	"syscall"
)

// signalCode is what a shell adds to the number of the signal that ended a
// process.
const signalCode = 128

// isolate gives the process a session, and with it a group, of its own: children
// that get groups of their own stay in the session.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return signalCode + int(status.Signal())
	}
	return state.ExitCode()
}
