package process

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// reapTime is how long children that were killed are waited for. They end at
	// once, unless the kernel is stuck with one of them; then it stays behind.
	reapTime = time.Second
	// reapLook is the time between two looks.
	reapLook = 2 * time.Millisecond
)

// endChildren kills and reaps the children of this process, but for those in
// except.
func endChildren(except []int) {
	left := slices.DeleteFunc(children(), func(pid int) bool { return slices.Contains(except, pid) })
	for _, pid := range left {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
	}
	for deadline := time.Now().Add(reapTime); len(left) > 0 && time.Now().Before(deadline); time.Sleep(reapLook) {
		left = slices.DeleteFunc(left, func(pid int) bool {
			reaped, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
			return reaped == pid || err != nil
		})
	}
}

// children returns the processes whose parent this one is. It looks at all of
// them: the list of children that Linux can give is an option of the kernel.
func children() []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // without /proc there is nothing to be done
	var pids []int
	for _, stat := range stats {
		data, err := os.ReadFile(stat) //nolint:gosec // a path of the system's
		if err != nil {
			continue // the process has ended
		}
		// "pid (name) state ppid …"; the name may hold anything, parentheses too.
		text := string(data)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
