package owntelemetry_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/service/telemetry"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/owntelemetry"
)

// TestOwnTelemetryArrives makes the Collector's own telemetry of what the overlay
// says, and looks at what a server without TLS receives.
func TestOwnTelemetryArrives(t *testing.T) {
	var mu sync.Mutex
	got := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		mu.Lock()
		defer mu.Unlock()
		got[r.URL.Path] = r.Header.Get("X-Key")
		assert.Contains(t, string(body), "uid-of-the-agent", "resource")
	}))
	defer server.Close()
	v := connsettings.Values{Own: map[connsettings.Signal]connsettings.Destination{}, Resource: map[string]string{"service.instance.id": "uid-of-the-agent"}}
	former := values
	defer func() { values = former }()
	values = map[string]string{}
	for signal, path := range map[connsettings.Signal]string{connsettings.Metrics: "/own/m", connsettings.Traces: "/own/t", connsettings.Logs: "/own/l"} {
		v.Own[signal] = connsettings.Destination{Endpoint: server.URL + path, Headers: http.Header{"X-Key": {"0123"}}}
		values[string(signal)+"/endpoint"], values[string(signal)+"/headers/X-Key"] = server.URL+path, "0123"
	}
	// No reader at a fixed port.
	lists := owntelemetry.Lists{Below: []map[string]any{parse(t, `service: {telemetry: {metrics: {readers: []}, logs: {output_paths: [], error_output_paths: []}}}`)}}
	cfg, err := decode(t, v, lists)
	require.NoError(t, err)

	factory := otelconftelemetry.NewFactory()
	set := telemetry.Settings{BuildInfo: component.NewDefaultBuildInfo()}
	resource, err := factory.CreateResource(t.Context(), set, cfg)
	require.NoError(t, err)
	set.Resource = &resource
	logger, stopLogs, err := factory.CreateLogger(t.Context(), telemetry.LoggerSettings{Settings: set}, cfg)
	require.NoError(t, err)
	meters, err := factory.CreateMeterProvider(t.Context(), telemetry.MeterSettings{Settings: set, Logger: zap.NewNop()}, cfg)
	require.NoError(t, err)
	tracers, err := factory.CreateTracerProvider(t.Context(), telemetry.TracerSettings{Settings: set, Logger: zap.NewNop()}, cfg)
	require.NoError(t, err)

	logger.Warn("something happened")
	counter, err := meters.Meter("test").Int64Counter("things")
	require.NoError(t, err)
	counter.Add(t.Context(), 1)
	_, span := tracers.Tracer("test").Start(t.Context(), "work")
	span.End()
	for _, stop := range []func(context.Context) error{stopLogs, meters.Shutdown, tracers.Shutdown} {
		require.NoError(t, stop(t.Context()))
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, map[string]string{"/own/m": "0123", "/own/t": "0123", "/own/l": "0123"}, got)
}
