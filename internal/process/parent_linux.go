package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// younger reports whether the process with an ID was started after this one. An
// execve does not make a process younger.
func younger(pid int) bool {
	its, err := startTime(pid)
	if err != nil {
		return false // it has ended, or cannot be looked at
	}
	own, err := startTime(os.Getpid())
	return err == nil && its > own
}

// startTime returns when a process was started, in ticks since the system was.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// "pid (name) state ppid …"; the name may hold anything, parentheses too. See
	// proc(5): the time is field 22, and the fields after the name begin with 3.
	const starttime = 22 - 3
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= starttime {
		return 0, fmt.Errorf("reading when process %d was started: %d fields", pid, len(fields))
	}
	return strconv.ParseUint(fields[starttime], 10, 64)
}
