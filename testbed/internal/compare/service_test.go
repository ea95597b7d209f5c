package compare

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What ends is started again, until the service is stopped.
func TestServiceRestarts(t *testing.T) {
	t.Parallel()
	s, err := startService(otelcol.Settings{Binary: "sleep", Args: []string{"60"}})
	if err != nil {
		t.Skip("no such program:", err)
	}
	first := s.running()
	require.NoError(t, first.Kill())
	require.Eventually(t, func() bool { return s.running() != first }, 10*time.Second, time.Millisecond)
	second := s.running()
	assert.GreaterOrEqual(t, second.Started().Sub(first.ExitedAt()), RestartDelay)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, s.stop(ctx))
	select {
	case <-second.Exited():
	default:
		assert.Fail(t, "it still runs")
	}
	assert.Same(t, second, s.running(), "not started again")
}
