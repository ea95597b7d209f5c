package otelcol

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are taken from below the range from which systems give ports to outgoing
// connections (32768 and up on Linux, 49152 elsewhere): a port that was free is
// not taken by a client in the meantime.
const (
	lowestPort  = 20_000
	highestPort = 32_000
)

// handedOut are the ports that FreePort has returned: nobody listens on them yet.
var handedOut = struct {
	mu    sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// FreePort returns a TCP port of 127.0.0.1 on which nobody listens. It never
// returns the same port twice in a process. Another process may still be faster.
func FreePort() (int, error) {
	handedOut.mu.Lock()
	defer handedOut.mu.Unlock()
	for range highestPort - lowestPort {
		port := lowestPort + rand.IntN(highestPort-lowestPort) //nolint:gosec // not a secret
		if handedOut.ports[port] {
			continue
		}
		var lc net.ListenConfig
		ln, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			continue
		}
		handedOut.ports[port] = true
		return port, nil
	}
	return 0, errors.New("finding a free port: all are taken")
}

// FreeAddr is FreePort as an address, 127.0.0.1:PORT.
func FreeAddr() (string, error) {
	port, err := FreePort()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
}
