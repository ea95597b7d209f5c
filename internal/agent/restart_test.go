package agent

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
)

// A process that ended before it was asked for the remote configuration knows
// from its arguments whose it would have been.
func TestURIsAmongTheArguments(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []opampuri.URI{
		{StateDir: "/x", Guard: true},
		{Name: "edge", StateDir: "/y"},
		{Name: "last"},
	}, opampURIs([]string{
		"--config=a.yaml", "--config=opamp:?guard=true&state_dir=/x", "--set=a=opamp:no", "--config", "opamp:edge?state_dir=/y",
		"--config=opamp:?nonsense", "-config=opamp:last",
	}))
}
