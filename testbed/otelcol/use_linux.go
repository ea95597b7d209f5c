package otelcol

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Use returns what the process and all living processes of its session take: what it
// has started, and what those have.
func (p *Process) Use() (Use, error) {
	pids, err := p.Leftovers()
	if err != nil {
		return Use{}, err
	}
	var total Use
	for _, pid := range append([]int{p.pid}, pids...) {
		u, err := use(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has just ended
		}
		if err != nil {
			return Use{}, fmt.Errorf("reading what process %d takes: %w", pid, err)
		}
		total.Processes++
		total.RSS += u.RSS
		total.PSS += u.PSS
		total.CPU += u.CPU
	}
	return total, nil
}

// kibi is the unit of smaps_rollup, in bytes.
const kibi = 1024

// use is for one process.
func use(pid int) (u Use, err error) {
	content, err := os.ReadFile(procPath(pid, "smaps_rollup"))
	if err != nil {
		return u, err
	}
	for line := range bytes.Lines(content) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		var to *int64
		switch string(fields[0]) {
		case "Rss:":
			to = &u.RSS
		case "Pss:":
			to = &u.PSS
		default:
			continue
		}
		n, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil {
			return u, err
		}
		*to = n * kibi
	}
	u.CPU, err = cpuTime(pid)
	return u, err
}

// cpuTime is what the process has used of the processors, to the nanosecond; the
// figures in /proc are in units of 10 ms, which an idle process takes seconds to use.
func cpuTime(pid int) (time.Duration, error) {
	// The ID of a process's CPU-time clock, as clock_getcpuclockid(3) makes it:
	// CPUCLOCK_SCHED is 2.
	clock := int32(^pid<<3 | 2) //nolint:gosec // a process ID has 22 bits at most
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("reading a CPU clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
