//go:build unix

package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// With the gate of the partial reload, receivers are exchanged while everything
// behind them goes on; what fails is rolled back all the same.
func TestPartialReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	// The fault exporter tells when it is stopped.
	args := append(w.args(w.layer("exporter.yaml", `
exporters: {fault: {}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`)),
		"--feature-gates=service.partialReload,service.partialReloadReceivers")
	c := w.start(args)
	agent := w.managed()
	first := w.load(w.receiver)
	first.flows()

	second := freeAddr(t)
	receivers := func(more, list string) string {
		return fmt.Sprintf(`
receivers:
  otlp/second: {protocols: {grpc: {endpoint: %q}}}
%s
service: {pipelines: {traces: {receivers: [otlp, otlp/second%s]}}}`, second, more, list)
	}
	from := w.server.Mark()
	hash := w.offer(receivers("", ""))
	w.await(agent, hash, applied)
	w.requireVerdict(from, hash, applied)
	w.awaitEffective(agent, second)
	w.load(second).flows()
	assert.Equal(t, 1, c.count(logPartialReload))
	assert.Zero(t, c.count(logReload))
	assert.Zero(t, c.count(logFaultExporter), "stops of the exporter")
	assert.Zero(t, first.Progress().Refused, "the receiver that did not change must not be touched")
	last, _ := w.server.Agent(agent.UID)
	assert.True(t, last.Health.GetHealthy())
	assert.Equal(t, 2, strings.Count(strings.Join(healthNames(last.Health), " "), "receiver:otlp"), "the new receiver's health")

	// A receiver that does not start: the host falls back to a full reload, which
	// must be the way back.
	from = w.server.Mark()
	bad := w.offer(receivers("  fault: {fail_start: true, message: the port is closed}", ", fault"))
	after := w.await(agent, bad, failed)
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "the port is closed")
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "; running last known good")
	w.requireVerdict(from, bad, failed)
	_, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		config := a.EffectiveConfig[""]
		return a.Health.GetHealthy() && strings.Contains(config, second) && !strings.Contains(config, "the port is closed")
	})
	require.NoError(t, err)
	w.load(second).flows()
	first.flows()
	assert.Equal(t, 1, c.count(logReload), "the way back")

	// What is more than receivers still works.
	w.apply(agent, marking("full"))
	w.seen("full")
	w.awaitEffective(agent, "value: full")
	assert.Equal(t, 2, c.count(logReload))

	// And receivers once more, now away from a configuration of the other kind.
	w.apply(agent, marking("full")+fmt.Sprintf("receivers: {otlp/second: {protocols: {grpc: {endpoint: %q}}}}\n", second))
	w.awaitEffective(agent, second)
	c.requireAlive()
	w.requireOneSession()
	first.requireNothingLost()
}

// A component that gives up in the trial of a partial reload is rolled back too.
func TestPermanentErrorAfterPartialReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: "{trial_period: 3s}"})
	c := w.start(append(w.args(w.layer("mark.yaml", marking("local"))), "--feature-gates=service.partialReload"))
	agent := w.managed()
	l := w.load(w.receiver)
	bad := w.offer(`
receivers: {fault: {after: 100ms, then: permanent_error, message: the source is gone}}
service: {pipelines: {traces: {receivers: [otlp, fault]}}}`)
	after := w.await(agent, bad, failed)
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "the source is gone")
	_, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		return a.Health.GetHealthy() && !strings.Contains(a.EffectiveConfig[""], "the source is gone")
	})
	require.NoError(t, err)
	w.seenFromNow("local")
	assert.Equal(t, 2, c.count(logPartialReload), "there and back")
	assert.Zero(t, c.count(logReload))
	w.requireOneSession()
	assert.Empty(t, l.requireNothingLost().Refused)
}

// healthNames are the names of all parts of a health report.
func healthNames(h *protobufs.ComponentHealth) []string {
	var names []string
	for name, part := range h.GetComponentHealthMap() {
		names = append(append(names, name), healthNames(part)...)
	}
	return names
}

// What is exchanged in place is judged in time, however short apply_timeout is.
func TestPartialReloadWithAShortApplyTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: "{trial_period: 100ms, apply_timeout: 1s}"})
	c := w.start(append(w.args(), "--feature-gates=service.partialReload,service.partialReloadReceivers"))
	agent := w.managed()
	second := freeAddr(t)
	receiver := fmt.Sprintf("receivers: {otlp/second: {protocols: {grpc: {endpoint: %q}}}}\n", second)
	for name, body := range map[string]string{
		"a receiver that is used": receiver + "service: {pipelines: {traces: {receivers: [otlp, otlp/second]}}}",
		"one that is not":         receiver,
	} {
		from := w.server.Mark()
		hash := w.offer(body)
		w.await(agent, hash, applied)
		w.requireVerdict(from, hash, applied)
		w.awaitEffective(agent, second)
		assert.Zero(t, c.count(logReload), name)
	}
	w.requireOneSession()
}
