package process_test

import (
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

func TestUnderCobra(t *testing.T) {
	t.Parallel()
	assert.False(t, process.UnderCobra())
	under := false
	cmd := &cobra.Command{RunE: func(*cobra.Command, []string) error {
		under = process.UnderCobra()
		return nil
	}}
	cmd.SetArgs(nil)
	require.NoError(t, cmd.Execute())
	assert.True(t, under)
}
