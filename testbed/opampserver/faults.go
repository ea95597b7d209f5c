package opampserver

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
)

// refusal is how new connections and requests are turned away.
type refusal struct {
	status int
	header map[string]string
}

// Hold makes the server silent: it goes on receiving and recording, but answers
// and pushes wait until Release.
func (s *Server) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = true
}

// Release ends Hold and sends what was held back, in order. Answers over HTTP are
// made only now, so they contain offers that were set in between.
func (s *Server) Release() {
	s.mu.Lock()
	s.holding = false
	sessions := make([]*session, 0, len(s.sessions))
	for sess := range s.sessions {
		if sess.transport == WebSocket {
			sessions = append(sessions, sess)
		}
	}
	s.notifyLocked()
	s.mu.Unlock()
	s.flushAll(sessions)
}

// held reports whether answers are being held back.
func (s *Server) held() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holding
}

// Drop closes the agent's connection abruptly: without a WebSocket close frame
// and, where the transport is TCP, with a reset. The agent may connect again.
func (s *Server) Drop(uid string) error {
	s.mu.Lock()
	var conn net.Conn
	if a, ok := s.agents[uid]; ok && a.session != nil {
		conn = a.session.link.conn
	} else if ok && a.connected {
		conn = a.httpConn
	}
	s.mu.Unlock()
	if conn == nil {
		return fmt.Errorf("dropping agent %s: %w", uid, ErrNotConnected)
	}
	reset(conn)
	return nil
}

// reset closes a connection so that the peer sees an error, not an end.
func reset(conn net.Conn) {
	raw := conn
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		raw = wrapped.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // best effort: the close below is what counts
	}
	_ = raw.Close() // the peer may have been faster
}

// Refuse turns away new WebSocket connections and all HTTP requests with this
// HTTP status and header, before Settings.Accept is asked. WebSocket connections
// that exist stay open.
func (s *Server) Refuse(status int, header map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = &refusal{status: status, header: maps.Clone(header)}
}

// CloseAccepted makes the server accept connections and requests and then, once it
// has received the first message of an agent, close them without an answer, those
// that exist included; or, with false, ends that.
func (s *Server) CloseAccepted(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = on
}

// Require turns away WebSocket handshakes and HTTP requests with status 401 unless
// the header has one of the values. Without values any value is right again. It
// does not close WebSocket connections that exist. Which value was used is in
// [Attempt].
func (s *Server) Require(header string, values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	header = http.CanonicalHeaderKey(header)
	if len(values) == 0 {
		delete(s.required, header)
		return
	}
	s.required[header] = slices.Clone(values)
}

// permittedLocked reports whether a request has the required headers.
func (s *Server) permittedLocked(header http.Header) bool {
	for key, values := range s.required {
		if !slices.Contains(values, header.Get(key)) {
			return false
		}
	}
	return true
}

// AcceptAgain ends Refuse.
func (s *Server) AcceptAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = nil
}
