package opampserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"
)

// connectionCapabilities are those of an agent to which connection settings are
// offered.
const connectionCapabilities = protobufs.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings |
	protobufs.AgentCapabilities_AgentCapabilities_AcceptsOtherConnectionSettings |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnMetrics |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnTraces |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnLogs

// OfferConnections sets which connection settings are offered to an agent, or with
// an empty uid to every agent that has no such offer of its own. They are sent to
// agents that have a use for any of them and report another hash as the last one
// received: at once on WebSocket, and in each answer until the agent reports the
// hash. The offer is copied; without a hash it is given the SHA-256 of its content.
// The hash is returned.
func (s *Server) OfferConnections(uid string, o *protobufs.ConnectionSettingsOffers) []byte {
	o = hashed(o)
	s.mu.Lock()
	s.connections[uid] = o
	var flush []*session
	for _, a := range s.agents {
		if a.session == nil || uid != "" && a.uid != uid {
			continue
		}
		if due := s.connectionsDueLocked(a); due == o {
			flush = append(flush, pushLocked(a, &protobufs.ServerToAgent{ConnectionSettings: due}))
		}
	}
	s.notifyLocked()
	s.mu.Unlock()
	s.flushAll(flush)
	return bytes.Clone(o.GetHash())
}

// OfferConnectionsOnce sends connection settings to one agent exactly once,
// whatever it has reported and without keeping them, and returns their hash.
func (s *Server) OfferConnectionsOnce(uid string, o *protobufs.ConnectionSettingsOffers) ([]byte, error) {
	o = hashed(o)
	return bytes.Clone(o.GetHash()), s.Send(uid, &protobufs.ServerToAgent{ConnectionSettings: o})
}

// RepeatConnections makes the connection settings that are in force for an agent
// part of the first answer on every connection, of either transport, also when the
// agent has reported their hash: some servers do that.
func (s *Server) RepeatConnections(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repeating = on
}

// WithdrawConnections removes the offer of connection settings to an agent, or with
// an empty uid the one to all. Nothing is sent: an agent keeps what it has.
func (s *Server) WithdrawConnections(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, uid)
}

// hashed copies an offer and fills in its hash.
func hashed(o *protobufs.ConnectionSettingsOffers) *protobufs.ConnectionSettingsOffers {
	o = proto.Clone(o).(*protobufs.ConnectionSettingsOffers)
	if len(o.GetHash()) == 0 {
		// What cannot be encoded could not be sent either: its hash is of no matter.
		content, _ := proto.MarshalOptions{Deterministic: true}.Marshal(o)
		sum := sha256.Sum256(content)
		o.Hash = sum[:]
	}
	return o
}

// connectionsLocked returns the connection settings in force for an agent, or nil.
func (s *Server) connectionsLocked(uid string) *protobufs.ConnectionSettingsOffers {
	if o, ok := s.connections[uid]; ok {
		return o
	}
	return s.connections[""]
}

// connectionsDueLocked returns the connection settings that the agent should be
// sent, or nil.
func (s *Server) connectionsDueLocked(a *agentState) *protobufs.ConnectionSettingsOffers {
	o := s.connectionsLocked(a.uid)
	if o == nil || a.report == nil ||
		protobufs.AgentCapabilities(a.report.GetCapabilities())&connectionCapabilities == 0 || //nolint:gosec // a bit mask of 16 bits
		bytes.Equal(a.report.GetConnectionSettingsStatus().GetLastConnectionSettingsHash(), o.GetHash()) {
		return nil
	}
	return o
}

// sign has a certificate request answered, if the message has one: with an offer or
// a refusal. Never call it with mu held.
func (s *Server) sign(uid string, msg *protobufs.AgentToServer) (*protobufs.ConnectionSettingsOffers, *protobufs.ServerErrorResponse) {
	request := msg.GetConnectionSettingsRequest().GetOpamp().GetCertificateRequest()
	if request == nil || s.settings.Sign == nil {
		return nil, nil
	}
	o, err := s.settings.Sign(uid, request.GetCsr())
	if err != nil {
		return nil, &protobufs.ServerErrorResponse{
			Type:         protobufs.ServerErrorResponseType_ServerErrorResponseType_BadRequest,
			ErrorMessage: err.Error(),
		}
	}
	return hashed(o), nil
}

// ConnectionStatus is a report on connection settings.
type ConnectionStatus struct {
	Time time.Time
	// Index is that of the message in the record, Conn its connection.
	Index, Conn int
	UID         string
	Hash        []byte
	Status      protobufs.ConnectionSettingsStatuses
	Message     string
}

// ConnectionStatuses are the reports on connection settings in the messages with
// index from and later, in order, repetitions included.
func (s *Server) ConnectionStatuses(from int) []ConnectionStatus {
	var all []ConnectionStatus
	for _, m := range s.MessagesFrom(from) {
		if r := m.Received.GetConnectionSettingsStatus(); r != nil {
			all = append(all, ConnectionStatus{
				Time: m.Time, Index: m.Index, Conn: m.Conn, UID: m.UID,
				Hash: slices.Clone(r.GetLastConnectionSettingsHash()), Status: r.GetStatus(), Message: r.GetErrorMessage(),
			})
		}
	}
	return all
}

// WaitConnectionStatus returns the first report, in the messages with index from
// and later, that an agent gives the connection settings with this hash one of
// these states, waiting for it until ctx ends.
func (s *Server) WaitConnectionStatus(
	ctx context.Context, from int, hash []byte, states ...protobufs.ConnectionSettingsStatuses,
) (ConnectionStatus, error) {
	m, err := s.WaitMessage(ctx, from, func(m Message) bool {
		r := m.Received.GetConnectionSettingsStatus()
		return r != nil && bytes.Equal(r.GetLastConnectionSettingsHash(), hash) && slices.Contains(states, r.GetStatus())
	})
	if err != nil {
		return ConnectionStatus{}, fmt.Errorf("waiting for connection settings %s to be reported as %v: %w", shortHash(hash), states, err)
	}
	return s.ConnectionStatuses(m.Index)[0], nil
}

// CertificateRequest is what an agent asked to be signed.
type CertificateRequest struct {
	Time time.Time
	// Index is that of the message in the record, Conn its connection.
	Index, Conn int
	UID         string
	// CSR is as it was sent: it should be in PEM. It must not be modified.
	CSR []byte
}

// CertificateRequests are the requests in the messages with index from and later,
// in order.
func (s *Server) CertificateRequests(from int) []CertificateRequest {
	var all []CertificateRequest
	for _, m := range s.MessagesFrom(from) {
		if r := m.Received.GetConnectionSettingsRequest().GetOpamp().GetCertificateRequest(); r != nil {
			all = append(all, CertificateRequest{Time: m.Time, Index: m.Index, Conn: m.Conn, UID: m.UID, CSR: r.GetCsr()})
		}
	}
	return all
}

// FailedHandshake is a TLS handshake that did not succeed, whichever end refused.
type FailedHandshake struct {
	Time time.Time
	// Remote is the address of the client.
	Remote string
	Err    error
}

// FailedHandshakes lists the TLS handshakes that failed, in order: those of clients
// without a valid certificate, where one is demanded, and those of clients that do
// not accept the server's. Of very many only the latest 10,000 are kept.
func (s *Server) FailedHandshakes() []FailedHandshake {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.failed)
}

// connState notices the handshakes that failed: those connections are closed
// without having become active.
func (s *Server) connState(conn net.Conn, state http.ConnState) {
	secure, ok := conn.(*tls.Conn)
	if !ok || state != http.StateClosed || secure.ConnectionState().HandshakeComplete {
		return
	}
	// The library has kept the error of the handshake, and does not do it again; the
	// connection is closed in any case.
	err := secure.HandshakeContext(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = append(s.failed, FailedHandshake{Time: time.Now(), Remote: conn.RemoteAddr().String(), Err: err})
	if extra := len(s.failed) - keepAttempts; extra > 0 {
		s.failed = slices.Delete(s.failed, 0, extra)
	}
	s.notifyLocked()
}

// WaitFailedHandshake waits until a TLS handshake has failed at or after the given
// time.
func (s *Server) WaitFailedHandshake(ctx context.Context, since time.Time) (FailedHandshake, error) {
	var found FailedHandshake
	err := s.await(ctx, func() bool {
		for _, f := range s.FailedHandshakes() {
			if !f.Time.Before(since) {
				found = f
				return true
			}
		}
		return false
	})
	if err != nil {
		return FailedHandshake{}, fmt.Errorf("waiting for a failed TLS handshake: %w", err)
	}
	return found, nil
}
