package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
)

// StartWorld starts a system and what surrounds it, with the folder dir for its files,
// and waits until it can be offered something. It must be ended with [World.Stop].
func StartWorld(ctx context.Context, s Settings, sys System, dir string) (w *World, err error) {
	for try := range maxTries {
		w = &World{settings: s, system: sys, dir: filepath.Join(dir, strconv.Itoa(try+1))}
		if err = w.start(ctx); err == nil {
			return w, nil
		}
		if stopErr := w.Stop(context.WithoutCancel(ctx)); stopErr != nil || ctx.Err() != nil {
			return nil, errors.Join(err, stopErr)
		}
	}
	return nil, err
}

func (w *World) start(ctx context.Context) error {
	settings, err := w.prepare()
	if err != nil {
		return err
	}
	if w.service, err = startService(settings); err != nil {
		return err
	}
	return w.ready(ctx)
}

// prepare starts everything but the system, and returns what is to be run.
func (w *World) prepare() (settings otelcol.Settings, err error) {
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return settings, fmt.Errorf("making a folder: %w", err)
	}
	if w.server, err = opampserver.Start(opampserver.Settings{}); err != nil {
		return settings, err
	}
	if w.sink, err = sink.Start(sink.Settings{}); err != nil {
		return settings, err
	}
	if w.otlp, err = otelcol.FreeAddr(); err != nil {
		return settings, err
	}
	if w.spare, err = otelcol.FreeAddr(); err != nil {
		return settings, err
	}
	if settings, err = w.system.prepare(w); err != nil {
		return settings, err
	}
	if w.settings.Keep != "" {
		if w.log, err = os.OpenFile(filepath.Join(w.dir, "output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return settings, fmt.Errorf("keeping the output: %w", err)
		}
		settings.LogTo = w.log
	}
	return settings, nil
}

// ready waits until the system can be offered something.
func (w *World) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if !w.system.Managed {
		return w.service.running().WaitLog(ctx, "Everything is ready")
	}
	agent, err := w.server.WaitFor(ctx, "", func(a opampserver.Agent) bool {
		// The supervisor says that it is healthy when it is ready to be offered
		// something: what comes earlier is APPLIED without being run.
		return a.Connected && a.Identifying != nil && a.Health.GetHealthy() && a.Capabilities&protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig != 0
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, w.service.running().Log())
	}
	w.uid = agent.UID
	return nil
}

// Stop ends whatever was started.
func (w *World) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var errs []error
	if w.service != nil {
		errs = append(errs, w.service.stop(ctx))
	}
	if w.log != nil {
		errs = append(errs, w.log.Close())
	}
	if w.server != nil {
		errs = append(errs, w.server.Stop(ctx))
	}
	if w.sink != nil {
		errs = append(errs, w.sink.Stop(ctx))
	}
	return errors.Join(errs...)
}
