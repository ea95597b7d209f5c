package fault_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/fault"
)

func TestConfigStruct(t *testing.T) {
	t.Parallel()
	cfg := fault.DefaultConfig()
	require.NoError(t, componenttest.CheckConfigStruct(&cfg))
	require.NoError(t, cfg.Validate())
}

func TestValidate(t *testing.T) {
	t.Parallel()
	const words = "must be one of permanent_error, recoverable_error, fatal_error, panic, exit, segv, ok, leak"
	tests := []struct {
		name string
		cfg  fault.Config
		want string
	}{
		{"unknown then", fault.Config{Then: "explode"}, `then: "explode" is unknown: ` + words},
		{"unknown in_start", fault.Config{InStart: "explode"}, `in_start: "explode" is unknown: ` + words},
		{"after without then", fault.Config{After: time.Second}, "after: needs `then`: " + words},
		{"negative after", fault.Config{After: -time.Second, Then: fault.OK}, "after: must not be negative, is -1s"},
		{"negative leak", fault.Config{LeakBytes: -1}, "leak_bytes: must not be negative, is -1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.EqualError(t, tt.cfg.Validate(), tt.want)
		})
	}
	for _, a := range fault.Actions() {
		cfg := fault.Config{Then: a, InStart: a}
		require.NoError(t, cfg.Validate())
	}
}
