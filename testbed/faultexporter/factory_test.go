package faultexporter_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/faultexporter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCountsAndDiscards(t *testing.T) {
	t.Parallel()
	factory := faultexporter.NewFactory()
	core, logs := observer.New(zap.InfoLevel)
	set := exportertest.NewNopSettings(component.MustNewType("fault"))
	set.Logger = zap.New(core)

	traces, err := factory.CreateTraces(t.Context(), set, factory.CreateDefaultConfig())
	require.NoError(t, err)
	require.NoError(t, traces.Start(t.Context(), componenttest.NewNopHost()))
	assert.False(t, traces.Capabilities().MutatesData)
	td := ptrace.NewTraces()
	td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	require.NoError(t, traces.ConsumeTraces(t.Context(), td))
	require.NoError(t, traces.Shutdown(t.Context()))

	metrics, err := factory.CreateMetrics(t.Context(), set, factory.CreateDefaultConfig())
	require.NoError(t, err)
	md := pmetric.NewMetrics()
	points := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty().SetEmptyGauge().DataPoints()
	points.AppendEmpty()
	points.AppendEmpty()
	require.NoError(t, metrics.ConsumeMetrics(t.Context(), md))
	require.NoError(t, metrics.Shutdown(t.Context()))

	records, err := factory.CreateLogs(t.Context(), set, factory.CreateDefaultConfig())
	require.NoError(t, err)
	require.NoError(t, records.ConsumeLogs(t.Context(), plog.NewLogs()))
	require.NoError(t, records.Shutdown(t.Context()))

	var counts []int64
	for _, entry := range logs.FilterMessage("Discarded data").All() {
		counts = append(counts, entry.ContextMap()["items"].(int64))
	}
	assert.Equal(t, []int64{1, 2, 0}, counts)
}

func TestFailures(t *testing.T) {
	t.Parallel()
	factory := faultexporter.NewFactory()
	set := exportertest.NewNopSettings(component.MustNewType("fault"))
	cfg := factory.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"fail_create": true}).Unmarshal(cfg))
	_, err := factory.CreateTraces(t.Context(), set, cfg)
	require.ErrorContains(t, err, "exporter")
	_, err = factory.CreateLogs(t.Context(), set, nil)
	require.ErrorContains(t, err, "unexpected configuration")
}
