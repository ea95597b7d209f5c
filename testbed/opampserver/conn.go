package opampserver

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// writeLimit bounds a write to an agent that does not read, so that no call on
// the Server can block for longer on a stuck peer.
const writeLimit = 10 * time.Second

// linkKey finds the *link of a request in its context.
type linkKey struct{}

// link is one accepted TCP connection. Its number is guarded by Server.mu.
type link struct {
	conn   net.Conn
	number int // 0 until an OpAMP connection was accepted on it
	// repeated means that the connection settings were offered on it, as
	// RepeatConnections demands.
	repeated bool
}

// serveHTTP hands a request to the library. It adds what the library lacks: a
// way to know when its goroutines have ended.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.serving.Add(1)
	s.mu.Unlock()
	defer s.serving.Done()
	s.handle(&hijackWatcher{ResponseWriter: w, server: s}, r)
}

// hijackWatcher sees the connection leave net/http for the WebSocket library.
type hijackWatcher struct {
	http.ResponseWriter
	server *Server
}

// Hijack implements http.Hijacker.
func (h *hijackWatcher) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	hijacker, ok := h.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("taking over the connection: not an HTTP/1 connection")
	}
	conn, buf, err := hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	tracked := &trackedConn{Conn: conn, server: h.server}
	s := h.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		_ = conn.Close() // Stop no longer looks for connections
		return nil, nil, ErrStopped
	}
	s.serving.Add(1)
	s.raw[tracked] = struct{}{}
	return tracked, buf, nil
}

// trackedConn is the socket of a WebSocket connection. The library closes it
// exactly once at the end of its goroutine, or right away when the upgrade
// fails: its Close therefore marks the end of the work on it. To end it from
// outside, close the embedded Conn.
type trackedConn struct {
	net.Conn
	server *Server
	once   sync.Once
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.server.mu.Lock()
		delete(c.server.raw, c)
		c.server.mu.Unlock()
		c.server.serving.Done()
	})
	return err
}

// Write implements net.Conn, bounded by writeLimit.
func (c *trackedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
