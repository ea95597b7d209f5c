package otelcol

import (
	"os"
	"os/exec"
)

// isolate does nothing: Windows has no sessions of processes in this sense.
func isolate(*exec.Cmd) {}

// terminate kills: a signal cannot be sent to another process.
func terminate(p *os.Process) error { return p.Kill() }

func exitCode(state *os.ProcessState) int { return state.ExitCode() }
