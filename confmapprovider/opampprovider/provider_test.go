package opampprovider

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
)

func TestScheme(t *testing.T) {
	t.Parallel()
	require.NoError(t, confmaptest.ValidateProviderScheme(newProvider(confmap.ProviderSettings{})))
}

// TestRetrieveOutsideARunChangesNothing covers validate, print-config and the
// providers that a generated main makes: no folder, no lock, no goroutine, no
// guard.
func TestRetrieveOutsideARunChangesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := newProvider(confmap.ProviderSettings{})
	for _, uri := range []string{"opamp:?state_dir=" + dir, "opamp:?guard=true&state_dir=" + dir, "opamp:?state_dir=" + dir} {
		ret, err := p.Retrieve(context.Background(), uri, func(*confmap.ChangeEvent) { t.Error("called") })
		require.NoError(t, err)
		conf, err := ret.AsConf()
		require.NoError(t, err)
		assert.Empty(t, conf.ToStringMap())
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, entries)
	// It is never shut down by these commands.
}

func TestShutdownWithoutRetrieve(t *testing.T) {
	t.Parallel()
	require.NoError(t, newProvider(confmap.ProviderSettings{}).Shutdown(t.Context()))
}
