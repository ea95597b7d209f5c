//go:build unix

package e2e_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// turningBad is a configuration that starts, and works until a component has a
// permanent error: after a moment or, with a file, when the file commands it.
func turningBad(mark, file string) string {
	when := "after: 1ms, then: permanent_error"
	if file != "" {
		when = fmt.Sprintf("control: %q", file)
	}
	return fmt.Sprintf(`
processors:
  attributes/e2e: {actions: [{key: %s, value: %q, action: upsert}]}
exporters:
  fault: {%s, message: the account is closed}
service: {pipelines: {traces: {processors: [attributes/e2e, batch], exporters: [otlp_grpc, fault]}}}
`, markKey, mark, when)
}

// controlFile returns the path of a file for turningBad, and the command.
func (w *world) controlFile() (path string, turnBad func()) {
	path = filepath.Join(w.dir, "control")
	return path, func() {
		w.t.Helper()
		require.NoError(w.t, os.WriteFile(path, []byte("permanent_error"), 0o600))
	}
}

// A candidate of which a component gives up in the trial is rolled back by one
// more reload. The rejection is stated, explained and remembered.
//
// Conformance: 65, 78
func TestPermanentErrorInTrialIsRolledBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: longTrial()})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	l := w.load(w.receiver)
	good := w.apply(agent, marking("good"))
	w.awaitEffective(agent, "value: good")

	from := w.server.Mark()
	file, turnBad := w.controlFile()
	bad := opampserver.YAML(turningBad("bad", file))
	hash := w.server.Offer("", bad)
	w.seen("bad") // or nothing would be rolled back
	turnBad()
	after := w.await(agent, hash, failed)
	text := after.RemoteConfigStatus.ErrorMessage
	assert.Contains(t, text, "the account is closed")
	assert.Contains(t, text, "exporter fault")
	assert.Contains(t, text, "; running last known good "+hex.EncodeToString(good)[:16])
	w.requireVerdict(from, hash, failed)

	w.seenFromNow("good")
	w.awaitEffective(agent, "value: good")
	well, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool { return a.Health.GetHealthy() })
	require.NoError(t, err)
	assert.Contains(t, well.Health.GetStatus(), "failed", "the health tells of the rejection")
	assert.Contains(t, well.Health.GetStatus(), "running last known good")
	assert.Equal(t, 3, c.count(logReload), "reloads: good, bad, and back")

	from = w.server.Mark()
	require.NoError(t, w.server.OfferOnce(agent.UID, bad))
	w.requireSilence(from, "what was rejected is not tried again", reportsStatus)
	assert.Equal(t, 3, c.count(logReload))
	c.requireAlive()
	w.requireOneSession()
	l.requireNothingLost()

	// Neither is it after a restart: the rejection is stated at once, and what
	// runs is the last known good.
	c.stop()
	from = w.server.Mark()
	c = w.start(args)
	stated, err := w.server.WaitMessage(patiently(t), from, reportsStatus)
	require.NoError(t, err)
	assert.Equal(t, agent.UID, stated.UID, "the instance UID survives a restart")
	assert.Equal(t, hash, stated.Received.GetRemoteConfigStatus().GetLastRemoteConfigHash())
	assert.Equal(t, failed, stated.Received.GetRemoteConfigStatus().GetStatus())
	assert.Equal(t, text, stated.Received.GetRemoteConfigStatus().GetErrorMessage())
	w.load(w.receiver)
	w.seenFromNow("good")
	w.awaitEffective(agent, "value: good")
	from = w.server.Mark()
	require.NoError(t, w.server.OfferOnce(agent.UID, bad))
	w.requireSilence(from, "what was rejected before the restart is not tried again", reportsStatus)
	assert.Zero(t, c.count(logReload))

	// A repaired configuration is welcome.
	w.apply(agent, marking("repaired"))
	w.seen("repaired")
}

// Without any last known good, the local configuration is what is gone back to.
func TestRollbackOfTheFirstOffer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: "{trial_period: 30s}"})
	c := w.start(w.args(w.layer("mark.yaml", marking("local"))))
	agent := w.managed()
	w.load(w.receiver)
	file, turnBad := w.controlFile()
	hash := w.offer(turningBad("bad", file))
	w.seen("bad")
	turnBad()
	after := w.await(agent, hash, failed)
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "the account is closed")
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "; running last known good none (local configuration only)")
	w.seenFromNow("local")
	w.awaitEffective(agent, "value: local")
	assert.Equal(t, 2, c.count(logReload), "reloads: there and back")
	w.requireOneSession()
}

// A component that fails under the last known good too says nothing about a
// candidate.
func TestErrorThatWasThereBeforeIsNoVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.start(w.args(w.layer("fault.yaml", `
exporters: {fault: {then: permanent_error}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`)))
	agent, err := w.server.WaitFor(patiently(t), "", func(a opampserver.Agent) bool {
		return a.Health != nil && !a.Health.GetHealthy() && a.Health.GetLastError() != ""
	})
	require.NoError(t, err)
	w.load(w.receiver)
	from := w.server.Mark()
	hash := w.offer(marking("candidate"))
	w.await(agent, hash, applied)
	w.seen("candidate")
	w.requireVerdict(from, hash, applied)
}
