package preflight

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// runIsolated runs cmd in a process group of its own, as the first to die when
// memory is short, with a memory limit, and not beyond the life of this
// process. It returns after the child was reaped.
func runIsolated(cmd *exec.Cmd, memory uint64) error {
	// The death signal is sent when the thread that forked ends, so that must
	// be one that lives as long as this call.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	// Neither limit is needed for correctness, and the child may be gone
	// already. RLIMIT_DATA counts what is written to, unlike RLIMIT_AS, which
	// the Go runtime exceeds by reserving address space.
	_ = unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: memory, Max: memory}, nil)
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("1000"), 0)
	err := cmd.Wait()
	// A component's factory may have started processes of its own.
	_ = killGroup(pid)
	return err
}

func killGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
