package opampserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	applied  = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED
	applying = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING
	unset    = protobufs.RemoteConfigStatuses_RemoteConfigStatuses_UNSET
)

func TestAgentIsKnown(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		a := startAgent(t, tr, s, agentOptions{})
		seen, err := s.WaitAgent(patiently(t))
		require.NoError(t, err)
		assert.Equal(t, a.uid, seen.UID)
		assert.Equal(t, tr.name, seen.Transport)
		assert.Equal(t, map[string]string{"service.name": "test"}, seen.Identifying)
		assert.Equal(t, map[string]string{"os.type": "none"}, seen.NonIdentifying)
		assert.NotZero(t, seen.Capabilities&protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth)
		assert.Equal(t, map[string]string{"": "running: true"}, seen.EffectiveConfig)
		assert.Equal(t, []string{"test.custom"}, seen.CustomCapabilities)
		assert.Equal(t, 1, seen.Connections)
		assert.True(t, seen.Connected)
		assert.False(t, seen.LastSeen.IsZero())

		healthy, err := s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Health.GetHealthy() })
		require.NoError(t, err)
		assert.Equal(t, "StatusOK", healthy.Health.GetStatus())
		require.NoError(t, a.client.SetHealth(&protobufs.ComponentHealth{LastError: "broken"}))
		_, err = s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Health.GetLastError() == "broken" })
		require.NoError(t, err)

		// Parts that are left out of later reports are remembered.
		later, ok := s.Agent(a.uid)
		require.True(t, ok)
		assert.Equal(t, map[string]string{"service.name": "test"}, later.Identifying)

		first, err := s.WaitMessage(patiently(t), 0, func(m opampserver.Message) bool { return m.Sent != nil })
		require.NoError(t, err)
		assert.Equal(t, uint64(opampserver.DefaultCapabilities), first.Sent.GetCapabilities())
		assert.Zero(t, first.Sent.GetFlags(), "a complete first report leaves nothing to ask for")
	})
}

func TestAvailableComponentsAreAskedForOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s := startServer(t, opampserver.Settings{})
		a := startAgent(t, tr, s, agentOptions{
			capabilities: protobufs.AgentCapabilities_AgentCapabilities_ReportsAvailableComponents,
		})
		full, err := s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool {
			return len(a.AvailableComponents.GetComponents()) > 0
		})
		require.NoError(t, err)
		assert.Contains(t, full.AvailableComponents.GetComponents(), "receivers")
		_, err = s.WaitMessage(patiently(t), s.Mark(), func(m opampserver.Message) bool { return m.Sent != nil })
		require.NoError(t, err)
		asked := 0
		for _, m := range s.Messages() {
			if m.Sent.GetFlags()&uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportAvailableComponents) != 0 {
				asked++
			}
		}
		assert.Equal(t, 1, asked)
	})
}

func TestConnectionCounts(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	both := transports()
	ws := startAgent(t, both[0], s, agentOptions{})
	_, err := s.WaitFor(patiently(t), ws.uid, func(a opampserver.Agent) bool { return a.Connected })
	require.NoError(t, err)
	assert.Equal(t, 1, s.Connections())
	assert.Zero(t, s.Requests())

	plain := startAgent(t, both[1], s, agentOptions{})
	_, err = s.WaitFor(patiently(t), plain.uid, func(a opampserver.Agent) bool { return a.SequenceNum > 2 })
	require.NoError(t, err)
	assert.Equal(t, 1, s.Connections())
	assert.Equal(t, 1, s.HTTPConnections())
	assert.GreaterOrEqual(t, s.Requests(), 3)
	seen, _ := s.Agent(plain.uid)
	assert.Equal(t, 1, seen.Connections)
	assert.Len(t, s.Agents(), 2)
}

func TestAgentSaysGoodbye(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	disconnect := &protobufs.AgentToServer{
		InstanceUid: testUID(1), AgentDescription: describeTest(), AgentDisconnect: &protobufs.AgentDisconnect{},
	}
	post(t, s, disconnect)
	agents := s.Agents()
	require.Len(t, agents, 1)
	assert.False(t, agents[0].Connected)
}

func TestTLSAndAcceptHook(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		cert, pool := selfSigned(t)
		s := startServer(t, opampserver.Settings{
			TLS: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
			Accept: func(r *http.Request) (int, map[string]string) {
				if r.Header.Get("Authorization") != "Bearer right" {
					return http.StatusUnauthorized, nil
				}
				return 0, nil
			},
		})
		assert.Regexp(t, `^(wss|https)://127\.0\.0\.1:\d+/v1/opamp$`, tr.url(s))
		trust := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		startAgent(t, tr, s, agentOptions{tls: trust, header: http.Header{"Authorization": {"Bearer wrong"}}})
		refused, err := s.WaitAttempt(patiently(t), time.Time{}, func(a opampserver.Attempt) bool { return a.Status != 0 })
		require.NoError(t, err)
		assert.Equal(t, http.StatusUnauthorized, refused.Status)
		assert.Equal(t, "Bearer wrong", refused.Header.Get("Authorization"))
		assert.Empty(t, s.Agents())

		right := startAgent(t, tr, s, agentOptions{tls: trust, header: http.Header{"Authorization": {"Bearer right"}}})
		seen, err := s.WaitAgent(patiently(t))
		require.NoError(t, err)
		assert.Equal(t, right.uid, seen.UID)
	})
}

func TestStartFailsOnBusyAddress(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	_, err := opampserver.Start(opampserver.Settings{Addr: s.Addr()})
	require.ErrorContains(t, err, "listening on")
}

func TestStopEndsConnectionsAndWaits(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, tr testTransport) {
		s, err := opampserver.Start(opampserver.Settings{})
		require.NoError(t, err)
		a := startAgent(t, tr, s, agentOptions{})
		_, err = s.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Connected })
		require.NoError(t, err)
		s.Hold() // an HTTP answer under way must not keep Stop waiting

		waited := make(chan error, 1)
		go func() {
			_, waitErr := s.WaitMessage(patiently(t), 0, func(opampserver.Message) bool { return false })
			waited <- waitErr
		}()
		require.NoError(t, s.Stop(patiently(t)))
		require.ErrorIs(t, <-waited, opampserver.ErrStopped)
		require.NoError(t, s.Stop(patiently(t)), "a second Stop is harmless")

		// The port is free again: another server takes over and the agent returns.
		again := startServer(t, opampserver.Settings{Addr: s.Addr()})
		_, err = again.WaitFor(patiently(t), a.uid, func(a opampserver.Agent) bool { return a.Connected && a.Identifying != nil })
		require.NoError(t, err)
	})
}

func TestWaitErrorsShowWhatHappened(t *testing.T) {
	t.Parallel()
	s := startServer(t, opampserver.Settings{})
	post(t, s, &protobufs.AgentToServer{
		InstanceUid: testUID(1), AgentDescription: describeTest(),
		Health: &protobufs.ComponentHealth{LastError: "disk full"},
		RemoteConfigStatus: &protobufs.RemoteConfigStatus{
			LastRemoteConfigHash: []byte{0xab, 0xcd}, Status: protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED,
			ErrorMessage: "no such receiver",
		},
	})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.WaitMessage(ended, 0, func(opampserver.Message) bool { return false })
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, `healthy=false("disk full")`)
	require.ErrorContains(t, err, `remote=FAILED abcd("no such receiver")`)
	_, err = s.WaitStatus(ended, uidOf(1), []byte{1}, applied)
	require.ErrorContains(t, err, "to report APPLIED for 01")
	require.ErrorContains(t, err, `remote config FAILED abcd "no such receiver"`)
	_, err = s.WaitStatus(ended, "unknown", []byte{1}, applied)
	require.ErrorContains(t, err, "agent unknown is not known")
	_, err = s.WaitFor(ended, "", func(opampserver.Agent) bool { return false })
	require.ErrorContains(t, err, "known agents: 1")
	_, err = s.WaitAttempt(ended, time.Now(), func(opampserver.Attempt) bool { return true })
	require.ErrorContains(t, err, "1 seen")
}

// selfSigned makes a certificate for 127.0.0.1 and a pool that trusts it.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
