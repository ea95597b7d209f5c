//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"maps"
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
	assert.Equal(t, 1, c.terminate(), "the Collector cannot flush its own telemetry (docs/connections.md)")
}
