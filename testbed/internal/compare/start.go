package compare

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// Beginning is how long a system took to start, from the start of its first process.
// Durations are negative where there is nothing to tell.
type Beginning struct {
	// Message is when the server has received a first message, Healthy the first that
	// says that the agent is healthy.
	Message, Healthy time.Duration
	// Accepted is when the first request was accepted.
	Accepted time.Duration
}

// StartMeasured is [StartWorld] for a system whose start is measured, with a client
// that sends from the beginning.
func StartMeasured(ctx context.Context, s Settings, sys System, dir string) (*World, Beginning, error) {
	w := &World{settings: s, system: sys, dir: dir}
	b, err := w.startMeasured(ctx)
	if err != nil {
		return nil, b, errors.Join(err, w.Stop(context.WithoutCancel(ctx)))
	}
	return w, b, nil
}

func (w *World) startMeasured(ctx context.Context) (b Beginning, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	settings, err := w.prepare()
	if err != nil {
		return b, err
	}
	generator, err := load.Start(load.Settings{Endpoint: w.otlp, Rate: w.settings.Rate})
	if err != nil {
		return b, err
	}
	begin := time.Now()
	w.service, err = startService(settings)
	if err == nil {
		b.Message, b.Healthy, err = w.told(ctx, begin)
	}
	if err == nil {
		err = generator.WaitAccepted(ctx, enough)
	}
	result := generator.Stop(ctx)
	if err != nil {
		return b, err
	}
	b.Accepted = result.Successes[0].Time.Sub(begin)
	return b, w.ready(ctx)
}

// told waits for the first messages.
func (w *World) told(ctx context.Context, begin time.Time) (message, healthy time.Duration, err error) {
	if !w.system.Managed {
		return -1, -1, nil
	}
	first, err := w.server.WaitMessage(ctx, 0, func(m opampserver.Message) bool { return m.Received != nil })
	if err != nil {
		return 0, 0, fmt.Errorf("no message: %w", err)
	}
	well, err := w.server.WaitMessage(ctx, 0, func(m opampserver.Message) bool { return m.Received.GetHealth().GetHealthy() })
	if err != nil {
		return 0, 0, fmt.Errorf("not healthy: %w", err)
	}
	return first.Time.Sub(begin), well.Time.Sub(begin), nil
}
