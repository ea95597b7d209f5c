//go:build !failpoints

package failpoint_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/failpoint"
)

// A binary as users have it does not know the variable.
func TestNothingIsReadWithoutTheTag(t *testing.T) {
	t.Setenv("OTELCOL_OPAMP_FAILPOINT", "*=error")
	require.NoError(t, failpoint.Hit("anything"))
	require.Zero(t, testing.AllocsPerRun(10, func() { _ = failpoint.Hit("anything") }))
}
