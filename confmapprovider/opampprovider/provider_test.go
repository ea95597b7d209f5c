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

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		uri     string
		want    location
		wantErr string
	}{
		{uri: "opamp:"},
		{uri: "opamp:edge", want: location{name: "edge"}},
		{uri: "opamp:?state_dir=/x/y", want: location{stateDir: "/x/y"}},
		{uri: "opamp:edge?state_dir=/x=y", want: location{name: "edge", stateDir: "/x=y"}},
		{uri: "file:x", wantErr: `"file:x" uri is not supported by "opamp" provider`},
		{uri: "opamp:?state_dir=x", wantErr: `state_dir "x" is relative`},
		{uri: "opamp:?state_dir=", wantErr: "state_dir is empty"},
		{uri: "opamp:?", wantErr: `unknown parameter ""`},
		{uri: "opamp:?statedir=/x", wantErr: `unknown parameter "statedir"`},
		{uri: "opamp:?state_dir=/x&state_dir=/y", wantErr: `parameter "state_dir" is given twice`},
		{uri: "opamp:#x/y", wantErr: `"#x/y" are not supported yet`},
	} {
		t.Run(tt.uri, func(t *testing.T) {
			t.Parallel()
			got, err := parse(tt.uri)
			if tt.wantErr != "" {
				require.ErrorContains(t, err, tt.wantErr)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

// TestRetrieveOutsideARunChangesNothing covers validate, print-config and the
// providers that a generated main makes: no folder, no lock, no goroutine.
func TestRetrieveOutsideARunChangesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := newProvider(confmap.ProviderSettings{})
	for range 2 {
		ret, err := p.Retrieve(context.Background(), "opamp:?state_dir="+dir, func(*confmap.ChangeEvent) { t.Error("called") })
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

func FuzzParse(f *testing.F) {
	f.Add("opamp:edge?state_dir=/x")
	f.Fuzz(func(t *testing.T, uri string) {
		at, err := parse(uri)
		if err == nil && at.stateDir != "" {
			require.True(t, at.stateDir[0] == '/' || len(at.stateDir) > 1)
		}
	})
}
