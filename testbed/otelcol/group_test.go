//go:build unix

package otelcol_test

import (
	"os/exec"
	"syscall"
)

// inGroupOfItsOwn takes the child out of its parent's process group.
func inGroupOfItsOwn(child *exec.Cmd) {
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
