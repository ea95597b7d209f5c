package faultextension_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/faultextension"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExtension(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		cfg        map[string]any
		wantCreate string
		wantStart  string
		wantReady  string
	}{
		{name: "works"},
		{name: "ready_error", cfg: map[string]any{"ready_error": true}, wantReady: `extension "fault" fails on demand (ready_error)`},
		{name: "message", cfg: map[string]any{"ready_error": true, "message": "not today"}, wantReady: "not today"},
		{name: "shared setting", cfg: map[string]any{"fail_start": true}, wantStart: `extension "fault" fails on demand (fail_start)`},
		{name: "create", cfg: map[string]any{"fail_create": true}, wantCreate: `extension "fault" fails on demand (fail_create)`},
	}
	factory := faultextension.NewFactory()
	set := extensiontest.NewNopSettings(component.MustNewType("fault"))
	set.ID = component.MustNewID("fault")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := factory.CreateDefaultConfig()
			require.NoError(t, componenttest.CheckConfigStruct(cfg))
			require.NoError(t, confmap.NewFromStringMap(tt.cfg).Unmarshal(cfg))
			require.NoError(t, confmap.Validate(cfg))
			e, err := factory.Create(t.Context(), set, cfg)
			requireError(t, tt.wantCreate, err)
			if err != nil {
				require.Nil(t, e)
				return
			}
			requireError(t, tt.wantStart, e.Start(t.Context(), componenttest.NewNopHost()))
			watcher, ok := e.(extensioncapabilities.PipelineWatcher)
			require.True(t, ok)
			requireError(t, tt.wantReady, watcher.Ready())
			require.NoError(t, watcher.NotReady())
			require.NoError(t, e.Shutdown(t.Context()))
		})
	}
}

func TestValidateNamesTheKeyOnce(t *testing.T) {
	t.Parallel()
	cfg := faultextension.NewFactory().CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"then": "explode"}).Unmarshal(cfg))
	err := confmap.Validate(cfg)
	require.ErrorContains(t, err, `then: "explode" is unknown`)
	require.NotContains(t, err.Error(), "\n")
}

func requireError(t *testing.T, want string, err error) {
	t.Helper()
	if want == "" {
		require.NoError(t, err)
		return
	}
	require.EqualError(t, err, want)
}
