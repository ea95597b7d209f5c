//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/testca"
)

const (
	connectionsApplying = protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLYING
	connectionsApplied  = protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED
	connectionsFailed   = protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_FAILED

	// verifyTimeout is how long a connection that is offered has to prove itself.
	verifyTimeout = 5 * time.Second
	// revertSlack is what the way back may take besides: the server's answer and a
	// busy machine.
	revertSlack = 10 * time.Second
)

// connections is a layer that lets the server offer connections to this machine's
// 127.0.0.1; more is merged over the block of the extension, as a YAML flow map.
func (w *world) connections(more string) []string {
	w.t.Helper()
	layers := []string{w.layer("connections.yaml", fmt.Sprintf(`
extensions:
  opamp:
    capabilities:
      accepts_opamp_connection_settings: true
      accepts_other_connection_settings: true
      reports_own_metrics: true
      reports_own_traces: true
      reports_own_logs: true
    connection_settings: {verify_timeout: %s}
    policy: {connections: {hosts: {allow: [127.0.0.1]}}}
`, verifyTimeout))}
	if more != "" {
		layers = append(layers, w.layer("connections-more.yaml", "extensions: {opamp: "+more+"}"))
	}
	return layers
}

// another starts one more server.
func (w *world) another(settings opampserver.Settings) *opampserver.Server {
	w.t.Helper()
	s, err := opampserver.Start(settings)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("the last messages of the server at %s:\n%s", s.Addr(), s.Timeline("", 40))
		}
		assert.NoError(w.t, s.Stop(cleanupContext(w.t)))
	})
	return s
}

// authority makes a CA for a test.
func authority(t *testing.T, name string) *testca.CA {
	t.Helper()
	ca, err := testca.New(name)
	require.NoError(t, err)
	return ca
}

// serverPair is a server's certificate that is valid for the time of a test.
func serverPair(t *testing.T, ca *testca.CA) testca.Pair {
	t.Helper()
	pair, err := ca.Server(testca.For(time.Hour))
	require.NoError(t, err)
	return pair
}

// write writes a file into the folder of the world and returns its path.
func (w *world) write(name string, content []byte) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	require.NoError(w.t, os.WriteFile(path, content, 0o600))
	return path
}

// connectionOffer reads an offer of connection settings from YAML.
func connectionOffer(t *testing.T, format string, args ...any) *protobufs.ConnectionSettingsOffers {
	t.Helper()
	o, err := opampserver.ParseConnections(fmt.Appendf(nil, format, args...))
	require.NoError(t, err)
	return o
}

// arrives waits until the agent is connected to a server and has described itself
// to it.
func (w *world) arrives(s *opampserver.Server, uid string) opampserver.Agent {
	w.t.Helper()
	agent, err := s.WaitFor(patiently(w.t), uid, func(a opampserver.Agent) bool { return a.Connected && a.Identifying != nil && a.Health.GetHealthy() })
	require.NoErrorf(w.t, err, "the agent must come to %s, and be up", s.Addr())
	return agent
}

// isUp waits until the server was told, since mark, that everything has started.
func (w *world) isUp(mark int) {
	w.t.Helper()
	_, err := w.server.WaitMessage(patiently(w.t), mark, func(m opampserver.Message) bool { return m.Received.GetHealth().GetHealthy() })
	require.NoError(w.t, err)
}

// connectionStates are the changes of the status of connection settings, in the
// order in which they were reported to any of the servers, from a moment on.
func connectionStates(hash []byte, since time.Time, servers ...*opampserver.Server) []protobufs.ConnectionSettingsStatuses {
	var all []opampserver.ConnectionStatus
	for _, s := range servers {
		for _, r := range s.ConnectionStatuses(0) {
			if slices.Equal(r.Hash, hash) && !r.Time.Before(since) {
				all = append(all, r)
			}
		}
	}
	slices.SortFunc(all, func(a, b opampserver.ConnectionStatus) int { return a.Time.Compare(b.Time) })
	var states []protobufs.ConnectionSettingsStatuses
	for _, r := range all {
		if len(states) == 0 || states[len(states)-1] != r.Status {
			states = append(states, r.Status)
		}
	}
	return states
}

// requireNoAttempts checks that nobody tries to connect to a server for a while.
func (w *world) requireNoAttempts(s *opampserver.Server, since time.Time) {
	w.t.Helper()
	_, err := s.WaitAttempt(bounded(w.t, quiet), since, func(opampserver.Attempt) bool { return true })
	require.ErrorIs(w.t, err, context.DeadlineExceeded, "an attempt to connect to %s", s.Addr())
}

// The server sends the agent elsewhere, over another transport and with other
// credentials: it goes there, says so there, and comes back there after a restart.
// The same offer again does nothing.
//
// Conformance: 60, 84, 85, 86, 87, 90, 93, 94, 95, 96, 98, 99
func TestConnectionSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.secrets = []string{"blue-tenant-4711"}
	ca := authority(t, "e2e CA")
	w.caFile = w.write("ca.pem", ca.PEM())
	plain := w.another(opampserver.Settings{})
	secure := w.another(opampserver.Settings{TLS: testca.ServerConfig(serverPair(t, ca), nil)})
	for _, s := range []*opampserver.Server{plain, secure} {
		s.Require("X-Tenant", "blue-tenant-4711")
	}
	args := w.args(w.connections("")...)
	c := w.start(args)
	agent := w.managed()
	require.True(t, accepts(agent, protobufs.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings))
	require.True(t, accepts(agent, protobufs.AgentCapabilities_AgentCapabilities_ReportsConnectionSettingsStatus))
	l := w.load(w.receiver)
	l.flows()

	// From WebSocket to HTTP, on another port, with a header.
	begin := time.Now()
	first := w.server.OfferConnections("", connectionOffer(t, `opamp: {endpoint: %q, headers: {X-Tenant: blue-tenant-4711}}`, plain.HTTPURL()))
	status, err := plain.WaitConnectionStatus(patiently(t), 0, first, connectionsApplied)
	require.NoError(t, err)
	assert.Equal(t, agent.UID, status.UID, "the same agent")
	assert.Equal(t, []protobufs.ConnectionSettingsStatuses{connectionsApplying, connectionsApplied}, connectionStates(first, begin, w.server, plain))
	assert.Equal(t, opampserver.HTTP, w.arrives(plain, agent.UID).Transport)
	former, _ := w.server.Agent(agent.UID)
	assert.False(t, former.Connected, "one connection at a time")
	farewell := slices.ContainsFunc(w.server.Messages(), func(m opampserver.Message) bool { return m.Received.GetAgentDisconnect() != nil })
	assert.True(t, farewell, "the former server is told")

	// From HTTP to WebSocket, with TLS and a heartbeat; the header is not offered
	// and stays.
	begin = time.Now()
	second := plain.OfferConnections("", connectionOffer(t, `opamp: {endpoint: %q, heartbeat: 1s}`, secure.WSURL()))
	_, err = secure.WaitConnectionStatus(patiently(t), 0, second, connectionsApplied)
	require.NoError(t, err)
	assert.Equal(t, []protobufs.ConnectionSettingsStatuses{connectionsApplying, connectionsApplied}, connectionStates(second, begin, plain, secure))
	assert.Equal(t, opampserver.WebSocket, w.arrives(secure, agent.UID).Transport)
	from := secure.Mark()
	for range 3 {
		m, err := secure.WaitMessage(bounded(t, 10*time.Second), from, func(m opampserver.Message) bool { return m.Received != nil })
		require.NoError(t, err, "a heartbeat each second, not each 30")
		from = m.Index + 1
	}

	// The new server manages the agent like the former one did.
	hash := secure.Offer("", opampserver.YAML(marking("from the new server")))
	_, err = secure.WaitStatus(patiently(t), agent.UID, hash, applied)
	require.NoError(t, err)
	w.seen("from the new server")

	c.stop()
	l.requireNothingLost()
	begin, from = time.Now(), secure.Mark()
	c = w.start(args)
	_, err = secure.WaitMessage(patiently(t), from, func(m opampserver.Message) bool {
		return m.Received.GetAgentDescription() != nil && m.UID == agent.UID
	})
	require.NoError(t, err, "after a restart the agent comes to where it was sent")
	for _, s := range []*opampserver.Server{w.server, plain} {
		assert.False(t, slices.ContainsFunc(s.Attempts(), func(a opampserver.Attempt) bool { return a.Time.After(begin) }),
			"an attempt to connect to %s, where the agent was before", s.Addr())
	}
	assert.Empty(t, plain.FailedHandshakes())
	agent = w.arrives(secure, agent.UID)
	assert.Equal(t, connectionsApplied, agent.ConnectionSettingsStatus.GetStatus())
	assert.Equal(t, second, agent.ConnectionSettingsStatus.GetLastConnectionSettingsHash())

	// The same again, and by a server that offers it on every connection.
	begin = time.Now()
	same := connectionOffer(t, `opamp: {endpoint: %q, heartbeat: 1s}`, secure.WSURL())
	again, err := secure.OfferConnectionsOnce(agent.UID, same)
	require.NoError(t, err)
	require.Equal(t, second, again)
	w.requireNoAttempts(secure, begin)
	secure.OfferConnections("", same)
	secure.RepeatConnections(true)
	connections := secure.Connections()
	from = secure.Mark()
	require.NoError(t, secure.Drop(agent.UID))
	_, err = secure.WaitMessage(patiently(t), from, func(m opampserver.Message) bool { return m.Sent.GetConnectionSettings() != nil })
	require.NoError(t, err)
	w.requireNoAttempts(secure, time.Now())
	assert.Equal(t, connections+1, secure.Connections(), "connections after one was dropped")
	assert.NotContains(t, connectionStates(second, begin, secure), connectionsApplying)
	c.requireAlive()
}

// badConnection is an offer that must come to nothing.
type badConnection struct {
	// offer makes the offer of the OpAMP connection, and starts what it leads to.
	offer func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers
	// reason is what the text of the failure must say.
	reason string
	// unseen: nothing may be tried, as it is refused before.
	unseen bool
}

func badConnections(ca, wrong *testca.CA) map[string]badConnection {
	elsewhere := func(w *world, s *opampserver.Server) string {
		if w.options.transport == opampserver.HTTP {
			return s.HTTPURL()
		}
		return s.WSURL()
	}
	// serving starts a server with a certificate and lets prepare change it.
	serving := func(t *testing.T, w *world, pair testca.Pair, prepare func(*opampserver.Server)) *protobufs.ConnectionSettingsOffers {
		t.Helper()
		s := w.another(opampserver.Settings{TLS: testca.ServerConfig(pair, nil)})
		if prepare != nil {
			prepare(s)
		}
		return connectionOffer(t, "opamp: {endpoint: %q}", elsewhere(w, s))
	}
	return map[string]badConnection{
		"unreachable": {reason: `connection refused`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			scheme, _, _ := strings.Cut(w.endpoint, "://")
			return connectionOffer(t, "opamp: {endpoint: %q}", scheme+"://"+freeAddr(t)+"/v1/opamp")
		}},
		"wrong CA": {reason: `unknown authority`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			return serving(t, w, serverPair(t, wrong), nil)
		}},
		"expired server certificate": {reason: `expired`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			pair, err := ca.Server(testca.Expired())
			require.NoError(t, err)
			return serving(t, w, pair, nil)
		}},
		"401": {reason: `401`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			return serving(t, w, serverPair(t, ca), func(s *opampserver.Server) { s.Require("Authorization", "Bearer nobody has it") })
		}},
		"accepts then closes": {reason: `(?i)clos|EOF|reset|answer`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			return serving(t, w, serverPair(t, ca), func(s *opampserver.Server) { s.CloseAccepted(true) })
		}},
		"silent": {reason: `(?i)answer|` + verifyTimeout.String(), offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			return serving(t, w, serverPair(t, ca), (*opampserver.Server).Hold)
		}},
		"404": {reason: `404`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			o := serving(t, w, serverPair(t, ca), nil)
			o.Opamp.DestinationEndpoint += "/nowhere"
			return o
		}},
		"weaker TLS": {unseen: true, reason: `insecure_skip_verify`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			o := serving(t, w, serverPair(t, wrong), nil)
			o.Opamp.Tls = &protobufs.TLSConnectionSettings{InsecureSkipVerify: true}
			return o
		}},
		"other host": {unseen: true, reason: `connections::hosts`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			o := serving(t, w, serverPair(t, ca), nil)
			o.Opamp.DestinationEndpoint = strings.Replace(o.Opamp.DestinationEndpoint, "127.0.0.1", "localhost", 1)
			return o
		}},
		"plain text": {unseen: true, reason: `(?i)TLS|plain|weaken`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			return connectionOffer(t, "opamp: {endpoint: %q}", elsewhere(w, w.another(opampserver.Settings{})))
		}},
		"not a URL": {unseen: true, reason: `endpoint`, offer: func(t *testing.T, _ *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			return connectionOffer(t, `opamp: {endpoint: "::"}`)
		}},
		"an offered CA": {unseen: true, reason: `(?i)\bCA\b|authorit`, offer: func(t *testing.T, w *world) *protobufs.ConnectionSettingsOffers {
			t.Helper()
			o := serving(t, w, serverPair(t, wrong), nil)
			o.Opamp.Tls = &protobufs.TLSConnectionSettings{CaPemContents: string(wrong.PEM())}
			return o
		}},
	}
}

// Whatever is wrong with the connection that a server offers: the agent is back on
// the former one in time, says what was wrong, and telemetry knows nothing of it.
//
// Conformance: 88, 93, 97, 104, 105
func TestBadConnectionSettings(t *testing.T) {
	t.Parallel()
	ca, wrong := authority(t, "e2e CA"), authority(t, "e2e CA")
	for name, bad := range badConnections(ca, wrong) {
		for _, transport := range []opampserver.Transport{opampserver.WebSocket, opampserver.HTTP} {
			t.Run(fmt.Sprintf("%s over %s", name, transport), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, options{
					transport: transport,
					server:    opampserver.Settings{TLS: testca.ServerConfig(serverPair(t, ca), nil)},
				})
				w.caFile = w.write("ca.pem", ca.PEM())
				args := w.args(w.connections("")...)
				c := w.start(args)
				agent := w.managed()
				l := w.load(w.receiver)
				l.flows()
				connections := w.server.Connections()

				begin := time.Now()
				hash := w.server.OfferConnections("", bad.offer(t, w))
				status, err := w.server.WaitConnectionStatus(patiently(t), 0, hash, connectionsFailed, connectionsApplied)
				require.NoError(t, err)
				require.Equal(t, connectionsFailed, status.Status)
				assert.Regexp(t, bad.reason, status.Message, "the cause")
				assert.Less(t, status.Time.Sub(begin), verifyTimeout+revertSlack, "the time on the way")
				w.arrives(w.server, agent.UID)
				if bad.unseen {
					assert.Equal(t, connections, w.server.Connections(), "what is refused costs no connection")
				} else {
					assert.Equal(t, []protobufs.ConnectionSettingsStatuses{connectionsApplying, connectionsFailed},
						connectionStates(hash, begin, w.server))
				}
				l.flows()
				c.requireAlive()
				assert.Zero(t, c.count(logReload))
				assert.Empty(t, l.requireNothingLost().Refused, "the data path must refuse nothing")

				// The agent comes back to the former server after a restart, too, and
				// does not try again what has failed.
				c.stop()
				from := w.server.Mark()
				c = w.start(args)
				first, err := w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool {
					return m.Received.GetAgentDescription() != nil
				})
				require.NoError(t, err)
				assert.Equal(t, hash, first.Received.GetConnectionSettingsStatus().GetLastConnectionSettingsHash())
				assert.Equal(t, connectionsFailed, first.Received.GetConnectionSettingsStatus().GetStatus())
				from = w.server.Mark()
				_, err = w.server.OfferConnectionsOnce(agent.UID, &protobufs.ConnectionSettingsOffers{Hash: hash, Opamp: bad.offer(t, w).GetOpamp()})
				require.NoError(t, err)
				w.requireSilence(from, "a status of what has failed", func(m opampserver.Message) bool {
					return m.Received.GetConnectionSettingsStatus().GetStatus() == connectionsApplying
				})
				c.requireAlive()
			})
		}
	}
}

// switchPoints are the steps of going over to another connection.
var switchPoints = []string{"switch.persist", "switch.connect", "switch.answered", "switch.report"}

// Wherever SIGKILL meets a process that goes over to another connection: the next
// one connects by that or by the former one, and in the end the server knows the
// truth.
//
// Conformance: 92
func TestKilledWhileSwitching(t *testing.T) {
	t.Parallel()
	for _, point := range switchPoints {
		for _, nth := range []int{1, 2} {
			for _, good := range []bool{true, false} {
				if !good && point == "switch.answered" || nth == 2 && point != "switch.persist" && point != "switch.report" {
					continue // never done, or not that often
				}
				t.Run(fmt.Sprintf("%s@%d, good: %t", point, nth, good), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t, options{})
					other := w.another(opampserver.Settings{})
					if !good {
						other.Refuse(http.StatusUnauthorized, nil)
					}
					k := &keeper{w: w, args: w.args(w.connections("")...)}
					k.start(fmt.Sprintf("%s%s=kill@%d", failpoints, point, nth))
					agent := w.managed()
					hash := w.server.OfferConnections("", connectionOffer(t, "opamp: {endpoint: %q}", other.WSURL()))
					where, verdict := other, connectionsApplied
					if !good {
						where, verdict = w.server, connectionsFailed
					}
					ok := assert.Eventually(t, func() bool {
						k.look()
						a, _ := where.Agent(agent.UID)
						return k.deaths > 0 && a.Connected &&
							slices.Equal(a.ConnectionSettingsStatus.GetLastConnectionSettingsHash(), hash) &&
							a.ConnectionSettingsStatus.GetStatus() == verdict
					}, patience, 20*time.Millisecond)
					if !ok {
						require.FailNowf(t, "no verdict", "deaths: %d; states: %v", k.deaths, connectionStates(hash, time.Time{}, w.server, other))
					}
					assert.Equal(t, 1, k.deaths)
					wrong := connectionsFailed
					if !good {
						wrong = connectionsApplied
					}
					assert.NotContains(t, connectionStates(hash, time.Time{}, w.server, other), wrong, "what was never true")
					_, err := where.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool { return a.Connected && a.Health.GetHealthy() })
					require.NoError(t, err, "it is up before it is stopped")
				})
			}
		}
	}
}
