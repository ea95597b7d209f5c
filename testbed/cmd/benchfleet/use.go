package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// self returns the figures of this process, which is the server's, after a
// collection of garbage.
func self() process {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return process{
		Goroutines: runtime.NumGoroutine(), HeapLive: m.HeapAlloc, Stacks: m.StackInuse,
		RSS: field("/proc/self/status", "VmRSS:"),
	}
}

// tick is the unit of the processor's time in /proc, which no system changes.
const tick = 10 * time.Millisecond

// cpu returns the processor's time that this process has used; 0 if it is not known.
func cpu() time.Duration {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may have spaces. The time in user
	// mode is the 12th field after it, the kernel's for it the 13th.
	_, after, _ := strings.Cut(string(text), ") ")
	words := strings.Fields(after)
	if len(words) < 13 {
		return 0
	}
	user, userErr := strconv.ParseInt(words[11], 10, 64)
	kernel, kernelErr := strconv.ParseInt(words[12], 10, 64)
	if userErr != nil || kernelErr != nil {
		return 0
	}
	return time.Duration(user+kernel) * tick
}

// field returns a figure in kB of a file of the kernel in bytes; 0 if there is none.
func field(path, name string) uint64 {
	text, err := os.ReadFile(path) //nolint:gosec // a constant
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), name)
	words := strings.Fields(after)
	if len(words) == 0 {
		return 0
	}
	kilobytes, err := strconv.ParseUint(words[0], 10, 64)
	if err != nil {
		return 0
	}
	return kilobytes << 10
}

// load returns the machine's load average of the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
