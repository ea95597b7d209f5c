// Package faultexporter is an exporter of type `fault` for test builds of the
// Collector. It counts and discards data and fails on demand: see the fields of
// its configuration, which the three fault components share.
package faultexporter

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/fault"
)

// NewFactory creates the factory. It supports traces, metrics and logs.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(
		component.MustNewType("fault"),
		func() component.Config { return new(fault.DefaultConfig()) },
		exporter.WithTraces(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Traces, error) {
			return create(set, cfg)
		}, component.StabilityLevelDevelopment),
		exporter.WithMetrics(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Metrics, error) {
			return create(set, cfg)
		}, component.StabilityLevelDevelopment),
		exporter.WithLogs(func(_ context.Context, set exporter.Settings, cfg component.Config) (exporter.Logs, error) {
			return create(set, cfg)
		}, component.StabilityLevelDevelopment),
	)
}

// anySignal is what create returns: one type serves all signals.
type anySignal interface {
	exporter.Traces
	ConsumeMetrics(context.Context, pmetric.Metrics) error
	ConsumeLogs(context.Context, plog.Logs) error
}

func create(set exporter.Settings, cfg component.Config) (anySignal, error) {
	c, ok := cfg.(*fault.Config)
	if !ok {
		return nil, fmt.Errorf("creating exporter %q: unexpected configuration %T", set.ID, cfg)
	}
	made, err := fault.New("exporter", set.ID, set.Logger, c)
	if err != nil {
		return nil, err
	}
	return &countingExporter{Component: made, logger: set.Logger}, nil
}

// countingExporter discards what it is given. The count is logged at Shutdown.
type countingExporter struct {
	*fault.Component
	logger *zap.Logger
	items  atomic.Int64 // spans, data points and log records
}

var (
	_ exporter.Traces  = (*countingExporter)(nil)
	_ exporter.Metrics = (*countingExporter)(nil)
	_ exporter.Logs    = (*countingExporter)(nil)
)

// Capabilities implements consumer.Traces, consumer.Metrics and consumer.Logs.
func (*countingExporter) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: false}
}

// ConsumeTraces implements consumer.Traces.
func (e *countingExporter) ConsumeTraces(_ context.Context, td ptrace.Traces) error {
	e.items.Add(int64(td.SpanCount()))
	return nil
}

// ConsumeMetrics implements consumer.Metrics.
func (e *countingExporter) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	e.items.Add(int64(md.DataPointCount()))
	return nil
}

// ConsumeLogs implements consumer.Logs.
func (e *countingExporter) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	e.items.Add(int64(ld.LogRecordCount()))
	return nil
}

// Shutdown implements component.Component.
func (e *countingExporter) Shutdown(ctx context.Context) error {
	e.logger.Info("Discarded data", zap.Int64("items", e.items.Load()))
	return e.Component.Shutdown(ctx)
}
