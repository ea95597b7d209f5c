//go:build unix

package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// An agent to which nothing happens says nothing but that it lives: as many
// heartbeats as in two hours at the usual interval of 30 seconds.
//
// Conformance: 28
func TestIdleAgentOnlySendsHeartbeats(t *testing.T) {
	t.Parallel()
	const heartbeats = 240 // two hours of them; a poll over HTTP is one
	w := newWorld(t, options{transport: opampserver.HTTP})
	w.start(w.args())
	agent := w.managed()
	l := w.load(w.receiver)
	w.apply(agent, marking("good"))
	w.seen("good")
	w.awaitEffective(agent, "value: good")
	from := w.server.Mark()
	// What followed from the change may still be on its way.
	m, err := w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool { return m.Received != nil && isHeartbeat(m) })
	require.NoError(t, err)
	first, seen := m.Index, 0
	_, err = w.server.WaitMessage(patiently(t), first, func(m opampserver.Message) bool {
		if m.Received == nil {
			return false
		}
		seen++
		assert.True(t, isHeartbeat(m), m.Summary())
		return seen >= heartbeats
	})
	require.NoError(t, err)
	l.flows()
}

// isHeartbeat reports whether the agent's message says nothing but that it lives.
func isHeartbeat(m opampserver.Message) bool {
	r := m.Received
	return r.GetAgentDescription() == nil && r.GetEffectiveConfig() == nil && r.GetHealth() == nil &&
		r.GetRemoteConfigStatus() == nil && r.GetPackageStatuses() == nil && r.GetAvailableComponents() == nil &&
		r.GetCustomCapabilities() == nil && r.GetCustomMessage() == nil && r.GetConnectionSettingsStatus() == nil
}
