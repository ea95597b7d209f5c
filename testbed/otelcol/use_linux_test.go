package otelcol_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a process has started belongs to what it takes.
func TestUse(t *testing.T) {
	t.Parallel()
	p := start(t, "parent", nil)
	require.NoError(t, p.WaitLog(patiently(t), "listening"))
	u, err := p.Use()
	require.NoError(t, err)
	assert.Equal(t, 2, u.Processes)
	rss, err := p.RSS()
	require.NoError(t, err)
	assert.Greater(t, u.RSS, rss, "the child's is in it")
	assert.Positive(t, u.PSS)
	assert.Less(t, u.PSS, u.RSS, "both run the same executable")
	assert.Positive(t, u.CPU)
	assert.Less(t, u.CPU, time.Minute)
	require.NoError(t, p.KillAll())
	_, err = p.Wait(patiently(t))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		u, err := p.Use()
		return err == nil && u.Processes == 0
	}, patience, time.Millisecond, "nothing is left")
}
