package opampserver_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/testca"
)

const (
	acceptingConnections = protobufs.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsConnectionSettingsStatus
	connectionsApplied = protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED
	connectionsFailed  = protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_FAILED
)

func someConnections(endpoint string) *protobufs.ConnectionSettingsOffers {
	return &protobufs.ConnectionSettingsOffers{Opamp: &protobufs.OpAMPConnectionSettings{DestinationEndpoint: endpoint}}
}

// report is what an agent says of connection settings, over HTTP.
func report(sequence uint64, hash []byte, message string) *protobufs.AgentToServer {
	msg := &protobufs.AgentToServer{
		InstanceUid: testUID(1), SequenceNum: sequence, AgentDescription: describeTest(), Capabilities: uint64(acceptingConnections),
	}
	if hash != nil {
		msg.ConnectionSettingsStatus = &protobufs.ConnectionSettingsStatus{
			LastConnectionSettingsHash: hash, Status: connectionsApplied, ErrorMessage: message,
		}
		if message != "" {
			msg.ConnectionSettingsStatus.Status = connectionsFailed
		}
	}
	return msg
}

func TestConnectionSettingsAreOfferedUntilReported(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	hash := s.OfferConnections("", someConnections("ws://one"))
	require.Len(t, hash, 32)
	assert.Equal(t, hash, s.OfferConnections("", someConnections("ws://one")))
	for sequence := range uint64(2) {
		answer := post(t, s, report(sequence, nil, ""))
		assert.Equal(t, "ws://one", answer.GetConnectionSettings().GetOpamp().GetDestinationEndpoint())
		assert.Equal(t, hash, answer.GetConnectionSettings().GetHash())
	}
	assert.Nil(t, post(t, s, report(2, hash, "")).GetConnectionSettings())
	own := s.OfferConnections(uidOf(1), someConnections("ws://two"))
	assert.Equal(t, own, post(t, s, report(3, hash, "")).GetConnectionSettings().GetHash())
	assert.Nil(t, post(t, s, report(4, own, "no route")).GetConnectionSettings())
	again, err := s.OfferConnectionsOnce(uidOf(1), someConnections("ws://two"))
	require.NoError(t, err)
	assert.Equal(t, own, again)
	assert.Equal(t, own, post(t, s, report(5, own, "no route")).GetConnectionSettings().GetHash())
	s.WithdrawConnections(uidOf(1))
	s.WithdrawConnections("")
	assert.Nil(t, post(t, s, report(6, []byte("other"), "")).GetConnectionSettings())

	status, err := s.WaitConnectionStatus(patiently(t), 0, own, connectionsFailed, connectionsApplied)
	require.NoError(t, err)
	assert.Equal(t, "no route", status.Message)
	assert.Equal(t, uidOf(1), status.UID)
	assert.WithinDuration(t, time.Now(), status.Time, patience)
	all := s.ConnectionStatuses(0)
	require.Len(t, all, 5)
	assert.Equal(t, [][]byte{hash, hash, own, own, []byte("other")},
		[][]byte{all[0].Hash, all[1].Hash, all[2].Hash, all[3].Hash, all[4].Hash})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.WaitConnectionStatus(ended, 0, []byte{1, 2}, connectionsApplied)
	require.ErrorContains(t, err, "waiting for connection settings 0102")
	require.ErrorContains(t, err, "FAILED")
}

func TestConnectionSettingsNeedACapability(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	s.OfferConnections("", someConnections("ws://one"))
	s.RepeatConnections(false)
	assert.Nil(t, post(t, s, &protobufs.AgentToServer{InstanceUid: testUID(1), AgentDescription: describeTest()}).GetConnectionSettings())
}

func TestConnectionSettingsInEveryFirstAnswer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		a := startAgent(t, tr, s, agentOptions{capabilities: acceptingConnections})
		_, err := s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Connected })
		require.NoError(t, err)
		hash := s.OfferConnections("", someConnections("ws://one"))
		// The client says so by itself, which is enough for the hash to be known.
		_, err = s.WaitConnectionStatus(patiently(t), 0, hash, protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLYING)
		require.NoError(t, err)
		s.RepeatConnections(true)
		for range 2 {
			from := s.Mark()
			require.NoError(t, s.Drop(a.uid))
			m, err := s.WaitMessage(patiently(t), from, func(m opampserver.Message) bool { return m.Sent.GetConnectionSettings() != nil })
			require.NoError(t, err)
			assert.Equal(t, hash, m.Sent.GetConnectionSettings().GetHash())
		}
	})
}

func TestConnectionSettingsArePushed(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	a := startAgent(t, transports()[0], s, agentOptions{
		capabilities: acceptingConnections,
		without:      protobufs.AgentCapabilities_AgentCapabilities_ReportsHeartbeat, // nothing asks for an answer
	})
	_, err := s.WaitMessage(patiently(t), 0, func(m opampserver.Message) bool { return m.UID == a.uid && m.Sent != nil })
	require.NoError(t, err)
	from := s.Mark()
	hash := s.OfferConnections(a.uid, someConnections("ws://one"))
	m, err := s.WaitMessage(patiently(t), from, func(m opampserver.Message) bool { return m.Sent.GetConnectionSettings() != nil })
	require.NoError(t, err)
	assert.Equal(t, hash, m.Sent.GetConnectionSettings().GetHash())
}

func TestCertificateRequests(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{Sign: func(_ string, request []byte) (*protobufs.ConnectionSettingsOffers, error) {
			if string(request) == "bad" {
				return nil, errors.New("not for you")
			}
			return &protobufs.ConnectionSettingsOffers{Opamp: &protobufs.OpAMPConnectionSettings{
				Certificate: &protobufs.TLSCertificate{Cert: request},
			}}, nil
		}})
		ask := func(csr string) opampserver.Message {
			from := s.Mark()
			a := startAgent(t, tr, s, agentOptions{capabilities: acceptingConnections, uid: uuid.Must(uuid.NewV7())})
			require.NoError(t, a.client.RequestConnectionSettings(&protobufs.ConnectionSettingsRequest{
				Opamp: &protobufs.OpAMPConnectionSettingsRequest{CertificateRequest: &protobufs.CertificateRequest{Csr: []byte(csr)}},
			}))
			m, err := s.WaitMessage(patiently(t), from, func(m opampserver.Message) bool {
				return m.UID == a.uid && (m.Sent.GetConnectionSettings() != nil || m.Sent.GetErrorResponse() != nil)
			})
			require.NoError(t, err)
			return m
		}
		assert.Equal(t, "good", string(ask("good").Sent.GetConnectionSettings().GetOpamp().GetCertificate().GetCert()))
		assert.Equal(t, "not for you", ask("bad").Sent.GetErrorResponse().GetErrorMessage())
		requests := s.CertificateRequests(0)
		require.Len(t, requests, 2)
		assert.Equal(t, "good", string(requests[0].CSR))
	})
}

func TestRequiredHeaders(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		s.Require("authorization", "Bearer one", "Bearer two")
		wrong := startAgent(t, tr, s, agentOptions{header: http.Header{"Authorization": {"Bearer three"}}})
		refused, err := s.WaitAttempt(patiently(t), time.Time{}, func(a opampserver.Attempt) bool { return a.Status == http.StatusUnauthorized })
		require.NoError(t, err)
		assert.Equal(t, "Bearer three", refused.Header.Get("Authorization"))
		right := startAgent(t, tr, s, agentOptions{header: http.Header{"Authorization": {"Bearer two"}}})
		_, err = s.WaitFor(patiently(t), right.uid, func(a opampserver.Agent) bool { return a.Connected })
		require.NoError(t, err)
		require.Len(t, s.Agents(), 1)
		s.Require("Authorization")
		_, err = s.WaitFor(patiently(t), wrong.uid, func(a opampserver.Agent) bool { return a.Connected })
		require.NoError(t, err)
	})
}

func TestAcceptedConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		s.CloseAccepted(true)
		a := startAgent(t, tr, s, agentOptions{})
		remotes := map[string]bool{}
		_, err := s.WaitAttempt(patiently(t), time.Time{}, func(a opampserver.Attempt) bool {
			remotes[a.Remote] = true
			return len(remotes) == 3
		})
		require.NoError(t, err)
		for _, m := range s.Messages() {
			assert.Nil(t, m.Sent, "an answer")
		}
		s.CloseAccepted(false)
		_, err = s.WaitMessage(patiently(t), 0, func(m opampserver.Message) bool { return m.UID == a.uid && m.Sent != nil })
		require.NoError(t, err)
	})
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca, err := testca.New("root")
	require.NoError(t, err)
	certificate, err := ca.Server(testca.For(time.Hour))
	require.NoError(t, err)
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{TLS: testca.ServerConfig(certificate, ca)})
		trust := &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
		startAgent(t, tr, s, agentOptions{tls: trust})
		refused, err := s.WaitFailedHandshake(patiently(t), time.Time{})
		require.NoError(t, err)
		require.ErrorContains(t, refused.Err, "client didn't provide a certificate")

		client, err := ca.Client("agent", testca.For(time.Hour))
		require.NoError(t, err)
		with := trust.Clone()
		with.Certificates = []tls.Certificate{client.TLS()}
		startAgent(t, tr, s, agentOptions{tls: with})
		_, err = s.WaitAgent(patiently(t))
		require.NoError(t, err)
		attempt := s.Attempts()[0]
		assert.Equal(t, client.Leaf.SerialNumber, attempt.Certificate.SerialNumber)
		assert.Equal(t, "agent", attempt.Certificate.Subject.CommonName)

		late, err := ca.Client("agent", testca.Expired())
		require.NoError(t, err)
		with = trust.Clone()
		with.Certificates = []tls.Certificate{late.TLS()}
		since := time.Now()
		startAgent(t, tr, s, agentOptions{tls: with})
		for {
			refused, err = s.WaitFailedHandshake(patiently(t), since)
			require.NoError(t, err)
			if since = refused.Time.Add(1); refused.Err.Error() != "tls: client didn't provide a certificate" {
				break // that of the first agent comes again and again
			}
		}
		require.ErrorContains(t, refused.Err, "expired")
	})
}

func TestParseConnections(t *testing.T) {
	t.Parallel()
	o, err := opampserver.ParseConnections([]byte(`
hash: h
opamp:
  endpoint: wss://127.0.0.1:1/v1/opamp
  headers: {X-B: b, X-A: a}
  certificate: {cert: C, key: K, ca: A}
  tls: {ca: T, system_cas: true, insecure_skip_verify: true, min_version: "1.2", max_version: "1.3", cipher_suites: [S]}
  proxy: {url: http://proxy, connect_headers: {P: p}}
  heartbeat: 90s
own_metrics: {}
own_logs: {endpoint: https://logs, headers: {}}
other_connections: {backend: {endpoint: https://backend, other: {k: v}}}
`))
	require.NoError(t, err)
	assert.Equal(t, "h", string(o.GetHash()))
	assert.Equal(t, "wss://127.0.0.1:1/v1/opamp", o.GetOpamp().GetDestinationEndpoint())
	headers := o.GetOpamp().GetHeaders().GetHeaders()
	require.Len(t, headers, 2)
	assert.Equal(t, "X-A", headers[0].GetKey())
	assert.Equal(t, "K", string(o.GetOpamp().GetCertificate().GetPrivateKey()))
	assert.Equal(t, []string{"S"}, o.GetOpamp().GetTls().GetCipherSuites())
	assert.Equal(t, "http://proxy", o.GetOpamp().GetProxy().GetUrl())
	assert.Equal(t, "P", o.GetOpamp().GetProxy().GetConnectHeaders().GetHeaders()[0].GetKey())
	assert.Equal(t, uint64(90), o.GetOpamp().GetHeartbeatIntervalSeconds())
	assert.NotNil(t, o.GetOwnMetrics())
	assert.Nil(t, o.GetOwnTraces())
	assert.NotNil(t, o.GetOwnLogs().GetHeaders())
	assert.Equal(t, map[string]string{"k": "v"}, o.GetOtherConnections()["backend"].GetOtherSettings())

	o, err = opampserver.ParseConnections([]byte(`{"opamp": {"headers": {"a": "b"}}}`))
	require.NoError(t, err)
	assert.Equal(t, "b", o.GetOpamp().GetHeaders().GetHeaders()[0].GetValue())
	o, err = opampserver.ParseConnections(nil)
	require.NoError(t, err)
	assert.Nil(t, o.GetOpamp())
	for _, bad := range []string{
		"unknown: {}", "opamp: {heartbeat: 1ms}", "opamp: {other: {}}", "own_logs: {heartbeat: 1s}", "other_connections: {a: {heartbeat: 1s}}", "[",
	} {
		_, err = opampserver.ParseConnections([]byte(bad))
		require.ErrorContains(t, err, "reading connection settings", bad)
	}
}
