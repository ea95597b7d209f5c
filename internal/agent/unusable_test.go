package agent_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/remoteconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/rollout"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// A last known good that this executable does not accept any more is not served,
// not even in part, and not told as applied.
func TestLastKnownGoodThatIsNotAcceptedAnyMore(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	path, err := statedir.Locate(h.dir, h.name)
	require.NoError(t, err)
	body := func(hash, yaml string) remoteconfig.Ref {
		offer := remoteconfig.NewOffer([]byte(hash), []remoteconfig.File{{Body: []byte(yaml)}})
		require.NoError(t, agent.SaveBody(path, offer))
		return offer.Ref()
	}
	latest := body("h2", "service: ${env:X}\nreceivers: {latest: {}}")
	require.NoError(t, agent.Save(path, rollout.Record{
		LastKnownGood: latest,
		Earlier:       []remoteconfig.Ref{body("h1", "receivers: {earlier: {}}")},
		Status:        rollout.Status{Hash: latest.Hash, State: rollout.StatusApplied},
	}))
	running := make(chan map[string]any, 1)
	h.started = func(conf map[string]any, _ *agent.ExtensionLease) { running <- conf }
	h.start()
	assert.Equal(t, map[string]any{"receivers": map[string]any{"earlier": map[string]any{}}}, receive(t, running))
	status := s.waitStatus(t, "h2", failed)
	assert.Contains(t, status.GetErrorMessage(), `it cannot be used: "service" must be a map`)
	assert.Contains(t, status.GetErrorMessage(), "; running earlier known good 6831")
}
