package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// EndInheritedChildren kills and reaps the children that the process's former
// self left: they belonged to components that are gone. To be called once, after
// a re-execution, before anything else starts children.
func EndInheritedChildren() {
	for _, pid := range children() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(pid, &status, 0, nil) // a killed child is reaped at once
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
