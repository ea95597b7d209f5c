// Package faultextension is an extension of type `fault` for test builds of the
// Collector. It does nothing and fails on demand: see the fields of its
// configuration, most of which the three fault components share.
package faultextension

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/fault"
)

// Config adds to the shared settings what only an extension can do.
type Config struct {
	// Fault has the settings that the fault components share.
	Fault fault.Config `mapstructure:",squash"`
	// ReadyError makes Ready return an error, which ends the Collector.
	ReadyError bool `mapstructure:"ready_error"`
	// Pprof is the loopback address at which the profiles of the process are
	// served while the extension runs; none if empty.
	Pprof string `mapstructure:"pprof"`
}

// NewFactory creates the factory.
func NewFactory() extension.Factory {
	return extension.NewFactory(
		component.MustNewType("fault"),
		func() component.Config { return &Config{Fault: fault.DefaultConfig()} },
		create,
		component.StabilityLevelDevelopment,
	)
}

func create(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
	c, ok := cfg.(*Config)
	if !ok {
		return nil, fmt.Errorf("creating extension %q: unexpected configuration %T", set.ID, cfg)
	}
	made, err := fault.New("extension", set.ID, set.Logger, &c.Fault)
	if err != nil {
		return nil, err
	}
	return &faultExtension{Component: made, cfg: c, id: set.ID}, nil
}

// faultExtension is safe for concurrent use: Ready and NotReady only read.
type faultExtension struct {
	*fault.Component
	cfg      *Config
	id       component.ID
	profiles *http.Server
	served   chan struct{}
}

var (
	_ extension.Extension                   = (*faultExtension)(nil)
	_ extensioncapabilities.PipelineWatcher = (*faultExtension)(nil)
)

// Start implements component.Component.
func (e *faultExtension) Start(ctx context.Context, host component.Host) error {
	if e.cfg.Pprof != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.cfg.Pprof)
		if err != nil {
			return fmt.Errorf("listening for requests for profiles: %w", err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		e.profiles = &http.Server{Handler: mux, ReadHeaderTimeout: requestTimeout}
		e.served = make(chan struct{})
		go func() {
			defer close(e.served)
			_ = e.profiles.Serve(l) // ends with Close
		}()
	}
	return e.Component.Start(ctx, host)
}

// requestTimeout bounds the wait for a request's header.
const requestTimeout = 5 * time.Second

// Shutdown implements component.Component.
func (e *faultExtension) Shutdown(ctx context.Context) error {
	if e.profiles != nil {
		if err := e.profiles.Close(); err != nil {
			return fmt.Errorf("ending the server of profiles: %w", err)
		}
		<-e.served
	}
	return e.Component.Shutdown(ctx)
}

// Ready implements extensioncapabilities.PipelineWatcher.
func (e *faultExtension) Ready() error {
	switch {
	case !e.cfg.ReadyError:
		return nil
	case e.cfg.Fault.Message != "":
		return errors.New(e.cfg.Fault.Message)
	default:
		return fmt.Errorf("extension %q fails on demand (ready_error)", e.id)
	}
}

// NotReady implements extensioncapabilities.PipelineWatcher.
func (*faultExtension) NotReady() error { return nil }
