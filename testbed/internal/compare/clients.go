package compare

import (
	"context"
	"fmt"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
)

// clients are what puts load on a system.
type clients struct {
	*load.Generator
	patient *load.Generator // nil without one
}

// connect begins to send.
func (w *World) connect() (*clients, error) {
	c := &clients{}
	var err error
	if w.settings.PatientRate > 0 {
		if c.patient, err = load.Start(load.Settings{Endpoint: w.otlp, Rate: w.settings.PatientRate, DefaultBackoff: true}); err != nil {
			return nil, err
		}
	}
	if c.Generator, err = load.Start(load.Settings{Endpoint: w.otlp, Rate: w.settings.Rate}); err != nil {
		if c.patient != nil {
			c.patient.Stop(context.Background())
		}
		return nil, err
	}
	return c, nil
}

// steady waits until both clients are served.
func (c *clients) steady(ctx context.Context) error {
	if err := c.patientServed(ctx); err != nil {
		return err
	}
	return c.WaitAccepted(ctx, enough)
}

// patientServed waits until the patient client is served again.
func (c *clients) patientServed(ctx context.Context) error {
	if c.patient == nil {
		return nil
	}
	if err := c.patient.WaitAccepted(ctx, 1); err != nil {
		return fmt.Errorf("the patient client: %w", err)
	}
	return nil
}

// stop ends the sending and returns both accounts; the second is empty without a
// patient client.
func (c *clients) stop(ctx context.Context) (result, patient load.Result) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	result = c.Stop(ctx)
	if c.patient != nil {
		patient = c.patient.Stop(ctx)
	}
	return result, patient
}

// patientBefore is before for the patient client, which sends less often.
func patientBefore(s Settings) time.Duration {
	return max(before, time.Duration(5/s.PatientRate*float64(time.Second))) // a few of its requests
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
