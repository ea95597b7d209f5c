package otelcol

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Columns of /proc/net/tcp, see proc_net(5).
const (
	tcpLocal = 1
	tcpState = 3
	tcpInode = 9
)

// tcpListen is the state of a listening socket in /proc/net/tcp.
const tcpListen = "0A"

// ListenerPID returns the ID of the process that listens on the TCP port of an
// address (host and port; the host is not looked at), or fs.ErrNotExist when there
// is none. It sees the processes of this user, or of all as root.
func ListenerPID(addr string) (int, error) {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, fmt.Errorf("finding who listens: %w", err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("finding who listens on %q: %w", addr, err)
	}
	sockets, err := listeningSockets(port)
	if err != nil {
		return 0, err
	}
	var pids []int
	if len(sockets) > 0 {
		pids, err = processes(func(s procStat) bool { return holds(s.pid, sockets) })
	}
	if err != nil {
		return 0, err
	}
	if len(pids) == 0 {
		return 0, fmt.Errorf("finding who listens on %q: %w", addr, fs.ErrNotExist)
	}
	// A child between fork and exec holds it too for a moment; its ID is higher.
	return pids[0], nil
}

// listeningSockets returns what the descriptors of the sockets that listen on a
// port link to.
func listeningSockets(port int) ([]string, error) {
	var sockets []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(table) //nolint:gosec // one of two
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("listing sockets: %w", err)
		}
		for line := range strings.Lines(string(content)) {
			fields := strings.Fields(line)
			if len(fields) <= tcpInode || fields[tcpState] != tcpListen {
				continue
			}
			_, hexPort, _ := strings.Cut(fields[tcpLocal], ":")
			if p, err := strconv.ParseUint(hexPort, 16, 16); err == nil && int(p) == port {
				sockets = append(sockets, "socket:["+fields[tcpInode]+"]")
			}
		}
	}
	return sockets, nil
}

// holds reports whether a process has a descriptor of one of the sockets. One that
// ended, or that may not be looked at, has none.
func holds(pid int, sockets []string) bool {
	folder := procPath(pid, "fd")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		target, err := os.Readlink(folder + "/" + e.Name())
		return err == nil && slices.Contains(sockets, target)
	})
}
