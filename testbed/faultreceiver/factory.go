// Package faultreceiver is a receiver of type `fault` for test builds of the
// Collector. It produces nothing and fails on demand: see the fields of its
// configuration, which the three fault components share.
package faultreceiver

import (
	"context"
	"fmt"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/fault"
)

// NewFactory creates the factory. It supports traces, metrics and logs.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(
		component.MustNewType("fault"),
		func() component.Config { return new(fault.DefaultConfig()) },
		receiver.WithTraces(func(_ context.Context, set receiver.Settings, cfg component.Config, _ consumer.Traces) (receiver.Traces, error) {
			return create(set, cfg)
		}, component.StabilityLevelDevelopment),
		receiver.WithMetrics(func(_ context.Context, set receiver.Settings, cfg component.Config, _ consumer.Metrics) (receiver.Metrics, error) {
			return create(set, cfg)
		}, component.StabilityLevelDevelopment),
		receiver.WithLogs(func(_ context.Context, set receiver.Settings, cfg component.Config, _ consumer.Logs) (receiver.Logs, error) {
			return create(set, cfg)
		}, component.StabilityLevelDevelopment),
	)
}

func create(set receiver.Settings, cfg component.Config) (component.Component, error) {
	c, ok := cfg.(*fault.Config)
	if !ok {
		return nil, fmt.Errorf("creating receiver %q: unexpected configuration %T", set.ID, cfg)
	}
	made, err := fault.New("receiver", set.ID, set.Logger, c)
	if err != nil {
		return nil, err // not a nil pointer inside of a non-nil interface
	}
	return made, nil
}
