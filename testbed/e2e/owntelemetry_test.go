//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/testca"
)

// ownInterval is more than the time between two exports of own metrics, 10 seconds.
const ownInterval = 15 * time.Second

// ownMetrics are some of those that the semantic conventions name for a process.
var ownMetrics = []string{"process.cpu.time", "process.memory.usage", "process.memory.virtual"}

// describedAs is the agent description as attributes of a resource.
func describedAs(a opampserver.Agent) map[string]string {
	attributes := maps.Clone(a.NonIdentifying)
	if attributes == nil {
		attributes = map[string]string{}
	}
	maps.Copy(attributes, a.Identifying)
	return attributes
}

// ownTelemetry is the block of an offer for all signals; more is part of each.
func ownTelemetry(base, more string) string {
	var offer strings.Builder
	for _, signal := range []string{"metrics", "traces", "logs"} {
		_, _ = fmt.Fprintf(&offer, "own_%s: {endpoint: %q%s}\n", signal, base+"/v1/"+signal, more)
	}
	return offer.String()
}

// settles offers connection settings and waits for the verdict.
func (w *world) settles(offer *protobufs.ConnectionSettingsOffers, verdict protobufs.ConnectionSettingsStatuses) opampserver.ConnectionStatus {
	w.t.Helper()
	from := w.server.Mark()
	hash := w.server.OfferConnections("", offer)
	status, err := w.server.WaitConnectionStatus(patiently(w.t), from, hash, connectionsApplied, connectionsFailed)
	require.NoError(w.t, err)
	require.Equal(w.t, verdict, status.Status, status.Message)
	return status
}

// The Collector's own metrics, traces and logs go where the server says, under the
// name that it knows, as long as it says so.
//
// Conformance: 118, 119, 120, 121, 122, 123, 124
func TestOwnTelemetry(t *testing.T) {
	t.Parallel()
	ca := authority(t, "e2e own telemetry")
	client, err := ca.Client("agent", testca.For(time.Hour))
	require.NoError(t, err)
	for name, o := range map[string]struct {
		settings sink.Settings
		more     string
	}{
		"http": {more: ", headers: {X-Own: own-4711}"},
		"https with a certificate": {
			settings: sink.Settings{TLS: testca.ServerConfig(serverPair(t, ca), ca)},
			more: fmt.Sprintf(", headers: {X-Own: own-4711}, tls: {ca: %q}, certificate: {cert: %q, key: %q}",
				ca.PEM(), client.Cert, client.Key),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own, err := sink.Start(o.settings)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, own.Stop(cleanupContext(t))) })
			own.Require("X-Own", "own-4711")
			w := newWorld(t, options{})
			w.secrets = []string{"own-4711"}
			args := w.args(append(w.connections(""), w.layer("metrics.yaml", scrapable(freeAddr(t))))...)
			c := w.start(args)
			agent := w.managed()
			for _, capability := range []protobufs.AgentCapabilities{
				protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnMetrics,
				protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnTraces,
				protobufs.AgentCapabilities_AgentCapabilities_ReportsOwnLogs,
			} {
				assert.True(t, accepts(agent, capability), capability)
			}
			l := w.load(w.receiver)
			l.flows()

			w.settles(connectionOffer(t, "%s", ownTelemetry(own.HTTPEndpoint(), o.more)), connectionsApplied)
			for _, signal := range []sink.Signal{sink.Metrics, sink.Traces, sink.Logs} {
				resource, err := own.WaitResource(patiently(t), signal, time.Time{})
				require.NoError(t, err)
				assert.Equal(t, describedAs(agent), resource, signal)
				assert.NotEmpty(t, own.Scopes(signal), signal)
			}
			require.NoError(t, own.WaitLogBody(patiently(t), "Everything is ready"))
			for _, metric := range ownMetrics {
				require.NoError(t, own.WaitMetric(patiently(t), metric))
			}
			require.NoError(t, own.WaitMetric(patiently(t), "otelcol_receiver_accepted_spans"))
			shown, _ := w.server.Agent(agent.UID)
			assert.NotContains(t, shown.EffectiveConfig[""], "own-4711", "references are shown as such")
			l.flows()

			// It goes on after a change of the configuration and after a restart.
			w.apply(agent, marking("candidate"))
			for _, metric := range ownMetrics {
				require.NoError(t, own.WaitMetricAfter(patiently(t), metric, time.Now()))
			}
			l.requireNothingLost()
			c.stop()
			begin := time.Now()
			c = w.start(args)
			w.managed()
			require.NoError(t, own.WaitMetricAfter(patiently(t), ownMetrics[0], begin))

			// Until it is withdrawn.
			w.settles(connectionOffer(t, "own_metrics: {}\nown_traces: {}\nown_logs: {}"), connectionsApplied)
			w.load(w.receiver).flows()
			withdrawn := time.Now()
			_, err = own.WaitUse(bounded(t, ownInterval), withdrawn, func(sink.Use) bool { return true })
			require.ErrorIs(t, err, context.DeadlineExceeded, "own telemetry after it was withdrawn")
			c.requireAlive()
		})
	}
}

// A destination that nobody serves harms nobody: that it is used is all that is
// asked. One that cannot be used is refused, by name, and what works goes on.
func TestBadOwnTelemetry(t *testing.T) {
	t.Parallel()
	own, err := sink.Start(sink.Settings{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, own.Stop(cleanupContext(t))) })
	w := newWorld(t, options{})
	c := w.start(w.args(append(w.connections(""), w.layer("metrics.yaml", scrapable(freeAddr(t))))...))
	w.managed()
	l := w.load(w.receiver)
	l.flows()
	w.settles(connectionOffer(t, "own_metrics: {endpoint: %q}", own.HTTPEndpoint()+"/v1/metrics"), connectionsApplied)
	require.NoError(t, own.WaitMetric(patiently(t), ownMetrics[0]))
	reloads := c.count(logReload)

	for part, offer := range map[string]string{
		"own_metrics": `own_metrics: {endpoint: "::"}`,
		"own_traces":  `own_traces: {endpoint: "ftp://127.0.0.1/v1/traces"}`,
		"own_logs":    `own_logs: {endpoint: "http://127.0.0.1:1/v1/logs", certificate: {cert: "not PEM", key: "not PEM"}}`,
	} {
		status := w.settles(connectionOffer(t, "%s", offer), connectionsFailed)
		assert.Contains(t, status.Message, part)
	}
	status := w.settles(connectionOffer(t, `own_metrics: {endpoint: "http://metrics.example.com/v1/metrics"}`), connectionsFailed)
	assert.Contains(t, status.Message, "connections::hosts", "a host that is not allowed")
	assert.Equal(t, reloads, c.count(logReload), "nothing that runs was touched")
	require.NoError(t, own.WaitMetricAfter(patiently(t), ownMetrics[0], time.Now()))

	w.settles(connectionOffer(t, "%s", ownTelemetry("http://"+freeAddr(t), "")), connectionsApplied)
	l.flows()
	agent := w.managed()
	assert.True(t, agent.Health.GetHealthy())
	l.requireNothingLost()
	c.requireAlive()

	// The retiring configuration cannot flush its own telemetry, and fails: that is no
	// verdict on the one that follows, which the process's successor tries.
	reloads = c.count(logReload)
	w.apply(agent, marking("candidate"))
	w.load(w.receiver).flows()
	w.seen("candidate")
	c.requireAlive() // the same process ID
	assert.Equal(t, 1, c.count(logReplaced))
	assert.Equal(t, reloads+1, c.count(logReload))
	w.settles(connectionOffer(t, "own_metrics: {endpoint: %q}\nown_traces: {}\nown_logs: {}", own.HTTPEndpoint()+"/v1/metrics"), connectionsApplied)
	w.settles(connectionOffer(t, "%s", ownTelemetry("http://"+freeAddr(t), "")), connectionsApplied)
	assert.Equal(t, 1, c.terminate(), "the Collector cannot flush its own telemetry (docs/connections.md)")
}

// Values with which the Collector does not start are rolled back: what was in force
// before is again, and the server is told.
//
// Conformance: 88, 125
func TestValuesThatBreakTheConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, taken.Close()) })
	first := freeAddr(t)
	c := w.start(w.args(append(w.connections(""), w.layer("values.yaml", fmt.Sprintf(`
receivers: {otlp/values: {protocols: {grpc: {endpoint: "${opamp:#other_connections/listen/endpoint:-%s}"}}}}
service: {pipelines: {traces: {receivers: [otlp, otlp/values]}}}
`, freeAddr(t))))...))
	agent := w.managed()
	offer := "other_connections: {listen: {endpoint: %q}}"
	w.settles(connectionOffer(t, offer, first), connectionsApplied)
	l := w.load(first)
	l.flows()
	status := w.settles(connectionOffer(t, offer, taken.Addr().String()), connectionsFailed)
	assert.Regexp(t, "^configuration: .*address already in use", status.Message)
	w.load(first).flows()
	health, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		return a.Health.GetHealthy() && strings.Contains(a.Health.GetStatus(), "connection settings")
	})
	require.NoError(t, err)
	assert.Contains(t, health.Health.GetStatus(), "failed")
	c.requireAlive()
}

// A value without a default that nobody has offered: a first start says so, and ends.
func TestValueThatNobodyOffers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	layer := w.layer("values.yaml", `exporters: {otlp_http/backend: {endpoint: "${opamp:#other_connections/backend/endpoint}"}}`)
	w.start(w.args(append(w.connections(""), layer)...)).requireEnds(
		`there is no value "other_connections/backend/endpoint": the OpAMP server has offered none; give a default if the Collector is to start without`)
}
