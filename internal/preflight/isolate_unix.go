//go:build unix && !linux

package preflight

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// runIsolated runs cmd in a process group of its own. Limits that can be set on
// another process are a matter of Linux; elsewhere the time limit is the bound.
func runIsolated(cmd *exec.Cmd, _ uint64) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	_ = killGroup(cmd.Process.Pid) // a component's factory may have started processes of its own
	return err
}

func killGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
