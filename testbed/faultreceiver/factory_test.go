package faultreceiver_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/goleak"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/faultreceiver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLifecycleOfEverySignal(t *testing.T) {
	t.Parallel()
	factory := faultreceiver.NewFactory()
	set := receivertest.NewNopSettings(component.MustNewType("fault"))
	for name, create := range creators(factory, set) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := create(t, factory.CreateDefaultConfig())
			require.NoError(t, err)
			require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
			require.NoError(t, c.Shutdown(t.Context()))

			cfg := factory.CreateDefaultConfig()
			require.NoError(t, confmap.NewFromStringMap(map[string]any{"fail_create": true}).Unmarshal(cfg))
			c, err = create(t, cfg)
			require.ErrorContains(t, err, "receiver")
			assert.Nil(t, c)
			_, err = create(t, nil)
			require.ErrorContains(t, err, "unexpected configuration")
		})
	}
}

func TestConfigurationFromYAML(t *testing.T) {
	t.Parallel()
	cfg := faultreceiver.NewFactory().CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"after": "2s", "then": "exit"}).Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	cfg = faultreceiver.NewFactory().CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"then": "explode"}).Unmarshal(cfg))
	require.ErrorContains(t, confmap.Validate(cfg), `then: "explode" is unknown`)
	require.Error(t, confmap.NewFromStringMap(map[string]any{"typo": 1}).Unmarshal(cfg))
}

type creator func(*testing.T, component.Config) (component.Component, error)

func creators(factory receiver.Factory, set receiver.Settings) map[string]creator {
	sink := consumertest.NewNop()
	return map[string]creator{
		"traces": func(t *testing.T, cfg component.Config) (component.Component, error) {
			t.Helper()
			return factory.CreateTraces(t.Context(), set, cfg, sink)
		},
		"metrics": func(t *testing.T, cfg component.Config) (component.Component, error) {
			t.Helper()
			return factory.CreateMetrics(t.Context(), set, cfg, sink)
		},
		"logs": func(t *testing.T, cfg component.Config) (component.Component, error) {
			t.Helper()
			return factory.CreateLogs(t.Context(), set, cfg, sink)
		},
	}
}
