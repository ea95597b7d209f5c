package otelcol

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// procStat is what is needed of /proc/PID/stat.
type procStat struct {
	pid, parent, session int
	state                byte
	threads              int
	residentPages        int64
}

// Positions in /proc/PID/stat after the name, see proc(5).
const (
	statState    = 0
	statParent   = 1
	statSession  = 3
	statThreads  = 17
	statResident = 21
)

const (
	zombie = 'Z'
	dead   = 'X'
)

// procPath is where the kernel shows something about a process.
func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// readStat returns fs.ErrNotExist when there is no such process.
func readStat(pid int) (procStat, error) {
	path := procPath(pid, "stat")
	content, err := os.ReadFile(path) //nolint:gosec // a number inside /proc
	if errors.Is(err, syscall.ESRCH) {
		err = fs.ErrNotExist // it ended between open and read
	}
	if err != nil {
		return procStat{}, err
	}
	// The name may contain spaces and parentheses: the fields begin after the last.
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	if len(fields) <= statResident {
		return procStat{}, fmt.Errorf("reading %s: too few fields", path)
	}
	number := func(i int) int64 {
		n, parseErr := strconv.ParseInt(string(fields[i]), 10, 64)
		err = errors.Join(err, parseErr)
		return n
	}
	stat := procStat{
		pid:           pid,
		state:         fields[statState][0],
		parent:        int(number(statParent)),
		session:       int(number(statSession)),
		threads:       int(number(statThreads)),
		residentPages: number(statResident),
	}
	if err != nil {
		return procStat{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return stat, nil
}

// processes returns the IDs, ascending, of the processes for which match is true.
func processes(match func(procStat) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := readStat(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing processes: %w", err)
		}
		if match(stat) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// RSS is the resident memory in bytes.
func (p *Process) RSS() (int64, error) {
	stat, err := readStat(p.pid)
	if err != nil {
		return 0, fmt.Errorf("reading the memory of process %d: %w", p.pid, err)
	}
	return stat.residentPages * int64(os.Getpagesize()), nil
}

// Threads is the number of threads.
func (p *Process) Threads() (int, error) {
	stat, err := readStat(p.pid)
	if err != nil {
		return 0, fmt.Errorf("counting the threads of process %d: %w", p.pid, err)
	}
	return stat.threads, nil
}

// FDs is the number of open file descriptors.
func (p *Process) FDs() (int, error) {
	entries, err := os.ReadDir(procPath(p.pid, "fd"))
	if err != nil {
		return 0, fmt.Errorf("counting the descriptors of process %d: %w", p.pid, err)
	}
	return len(entries), nil
}

// Name is the name of the process as the kernel shows it, at most 15 bytes.
func (p *Process) Name() (string, error) {
	name, err := os.ReadFile(procPath(p.pid, "comm"))
	if err != nil {
		return "", fmt.Errorf("reading the name of process %d: %w", p.pid, err)
	}
	return strings.TrimSuffix(string(name), "\n"), nil
}

// Children returns the IDs of the direct children, ascending. Zombies count: the
// process failed to reap them.
func (p *Process) Children() ([]int, error) {
	return processes(func(s procStat) bool { return s.parent == p.pid })
}

// Leftovers returns the IDs, ascending, of all living processes of the session
// beside the process itself: while it runs its descendants, after its end what it
// left behind.
func (p *Process) Leftovers() ([]int, error) {
	ended, reused := p.hasEnded(), false
	left, err := processes(func(s procStat) bool {
		if ended && s.pid == p.pid {
			// The session that is seen belongs to a stranger. (The kernel gives the ID
			// away again only when no process of the old session is left.)
			reused = true
		}
		return s.session == p.pid && s.pid != p.pid && s.state != zombie && s.state != dead
	})
	if err != nil || reused {
		return nil, err
	}
	return left, nil
}

func (p *Process) killLeftovers() error {
	left, err := p.Leftovers()
	errs := []error{err}
	for _, pid := range left {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("killing process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}
