package opampserver

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server/types"
	"google.golang.org/protobuf/proto"
)

// Transport says how an agent is connected.
type Transport string

// The transports of OpAMP.
const (
	WebSocket Transport = "ws"
	HTTP      Transport = "http"
)

// contentTypeProtobuf on a request is how the library tells HTTP from WebSocket.
const contentTypeProtobuf = "application/x-protobuf"

// keepAttempts bounds the list of connection attempts.
const keepAttempts = 10_000

// session is one WebSocket connection, or one request and answer over HTTP.
type session struct {
	transport Transport
	link      *link

	// sending admits one writer at a time, so that the record has the order of the wire.
	// It is taken before Server.mu, never after.
	sending sync.Mutex

	// Everything below is guarded by Server.mu.

	conn     types.Connection
	number   int
	outbox   []outgoing // not yet written
	answered bool       // the first answer was made
}

// outgoing is a message for one agent of a session.
type outgoing struct {
	uid string
	msg *protobufs.ServerToAgent
}

// Attempt is one WebSocket handshake or one HTTP request that reached the
// server.
type Attempt struct {
	Time      time.Time
	Transport Transport
	// Status is the HTTP status of the refusal, 0 when the attempt was accepted.
	Status int
	// Header is the header of the request. It must not be modified.
	Header http.Header
	// Remote is the address of the client: it tells TCP connections apart.
	Remote string
	// Certificate is the client's, nil if it has shown none. It must not be
	// modified.
	Certificate *x509.Certificate
}

func (s *Server) callbacks() types.Callbacks {
	return types.Callbacks{OnConnecting: s.connecting}
}

// connecting decides on a handshake or a request.
func (s *Server) connecting(r *http.Request) types.ConnectionResponse {
	transport := WebSocket
	if r.Header.Get("Content-Type") == contentTypeProtobuf {
		transport = HTTP
	}
	s.mu.Lock()
	refused := s.refusal
	if refused == nil && !s.permittedLocked(r.Header) {
		refused = &refusal{status: http.StatusUnauthorized}
	}
	s.mu.Unlock()
	status, header := 0, map[string]string(nil)
	if refused != nil {
		status, header = refused.status, refused.header
	} else if s.settings.Accept != nil {
		status, header = s.settings.Accept(r)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	attempt := Attempt{
		Time: time.Now(), Transport: transport, Status: status, Header: r.Header.Clone(), Remote: r.RemoteAddr,
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		attempt.Certificate = r.TLS.PeerCertificates[0]
	}
	s.attempts = append(s.attempts, attempt)
	if extra := len(s.attempts) - keepAttempts; extra > 0 {
		s.attempts = slices.Delete(s.attempts, 0, extra)
	}
	s.notifyLocked()
	if status != 0 {
		return types.ConnectionResponse{HTTPStatusCode: status, HTTPResponseHeader: header}
	}
	l, ok := r.Context().Value(linkKey{}).(*link)
	if !ok {
		return types.ConnectionResponse{HTTPStatusCode: http.StatusInternalServerError}
	}
	sess := &session{transport: transport, link: l}
	return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
		OnConnected: func(_ context.Context, conn types.Connection) { s.connected(sess, conn) },
		OnMessage: func(ctx context.Context, _ types.Connection, msg *protobufs.AgentToServer) *protobufs.ServerToAgent {
			return s.message(ctx, sess, msg)
		},
		OnConnectionClose: func(types.Connection) { s.disconnected(sess) },
	}}
}

// connected numbers the session: one number for each WebSocket connection, one
// for all the HTTP requests of a TCP connection.
func (s *Server) connected(sess *session, conn types.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sess.conn = conn
	s.sessions[sess] = struct{}{}
	if sess.link.number == 0 {
		s.numbers++
		sess.link.number = s.numbers
		if sess.transport == WebSocket {
			s.wsConnections++
		} else {
			s.httpConnections++
		}
	}
	sess.number = sess.link.number
	if sess.transport == HTTP {
		s.requests++
	}
	s.notifyLocked()
}

func (s *Server) disconnected(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess)
	sess.outbox = nil
	if sess.transport == WebSocket {
		for _, a := range s.agents {
			if a.session == sess {
				a.session, a.connected = nil, false
			}
		}
	}
	s.notifyLocked()
}

// message takes in one report and returns the answer for HTTP. On WebSocket all
// writing goes through flush, so that answers and pushes cannot overtake each
// other, and nothing is returned.
func (s *Server) message(ctx context.Context, sess *session, msg *protobufs.AgentToServer) *protobufs.ServerToAgent {
	uid := uidText(msg.GetInstanceUid())
	signed, refused := s.sign(uid, msg)
	s.mu.Lock()
	s.record.add(Message{UID: uid, Conn: sess.number, Transport: sess.transport, Received: msg})
	agent := s.reportLocked(sess, uid, msg)
	if s.closing {
		s.notifyLocked()
		s.mu.Unlock()
		reset(sess.link.conn)
		return nil
	}
	if refused != nil && agent != nil {
		agent.refused = refused
	}
	if signed != nil && agent != nil {
		s.connections[agent.uid] = signed
	}
	s.notifyLocked()
	if sess.transport == WebSocket {
		// An agent that says goodbye does not read any more.
		if msg.GetAgentDisconnect() == nil {
			sess.outbox = append(sess.outbox, outgoing{uid: uid, msg: s.answerLocked(sess, agent, msg)})
		}
		s.mu.Unlock()
		_ = s.flush(sess) // recorded there; a broken connection also ends the read loop
		return nil
	}
	s.mu.Unlock()

	if s.await(ctx, func() bool { return !s.held() }) != nil {
		return nil // the agent gave up or the server stops: nobody reads the answer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := s.answerLocked(sess, agent, msg)
	s.record.add(Message{UID: uid, Conn: sess.number, Transport: sess.transport, Sent: answer})
	s.notifyLocked()
	// The library completes the message it is given: keep the recorded one.
	return proto.Clone(answer).(*protobufs.ServerToAgent)
}

// flush writes the outbox of a WebSocket session in order, unless answers are
// held back. It returns the first write error. Never call it with mu held.
//
//nolint:contextcheck,nolintlint // for its callers: the library ignores the context, writeLimit bounds the write
func (s *Server) flush(sess *session) error {
	sess.sending.Lock()
	defer sess.sending.Unlock()
	var first error
	for {
		s.mu.Lock()
		if s.holding || len(sess.outbox) == 0 {
			s.mu.Unlock()
			return first
		}
		next := sess.outbox[0]
		sess.outbox = sess.outbox[1:]
		// Recorded before it is written: the reaction to it must come later.
		index := s.record.add(Message{UID: next.uid, Conn: sess.number, Transport: WebSocket, Sent: next.msg})
		s.notifyLocked()
		conn := sess.conn
		s.mu.Unlock()

		if err := conn.Send(context.Background(), next.msg); err != nil {
			err = fmt.Errorf("writing to agent %s: %w", next.uid, err)
			s.mu.Lock()
			s.record.fail(index, err)
			s.notifyLocked()
			s.mu.Unlock()
			if first == nil {
				first = err
			}
		}
	}
}

// Connections is the number of WebSocket connections accepted since the start.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wsConnections
}

// HTTPConnections is the number of distinct TCP connections on which plain HTTP
// requests were accepted since the start.
func (s *Server) HTTPConnections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.httpConnections
}

// Requests is the number of plain HTTP requests accepted since the start.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Attempts lists handshakes and requests, accepted and refused, in order. Of
// very many only the latest 10,000 are kept.
func (s *Server) Attempts() []Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.attempts)
}

// WaitAttempt returns the first attempt at or after the given time for which
// match returns true, waiting for it until ctx ends.
func (s *Server) WaitAttempt(ctx context.Context, since time.Time, match func(Attempt) bool) (Attempt, error) {
	var found Attempt
	err := s.await(ctx, func() bool {
		for _, a := range s.Attempts() {
			if !a.Time.Before(since) && match(a) {
				found = a
				return true
			}
		}
		return false
	})
	if err != nil {
		return Attempt{}, fmt.Errorf("waiting for a connection attempt (%d seen): %w", len(s.Attempts()), err)
	}
	return found, nil
}
