package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/compare"
)

// bench is what all repetitions share.
type bench struct {
	settings settings
	report   *report
	// systems are with the full distribution, gated the same with the gates, small
	// those with an OpAMP client with the small distribution.
	systems, gated, small []compare.System
	gatedSettings         compare.Settings
	// failures are the rows for the full distribution, turnsBad that of the small.
	failures, turnsBad []compare.Row
}

// prepare finds out what is there to be measured.
func prepare(ctx context.Context, s settings, dir string) (b *bench, err error) {
	s.full.Only = []string{compare.InvalidYAML, compare.UnknownComponent, compare.BindConflict, compare.SegvInTrial}
	small := s.full
	s.full.Copies = filepath.Join(dir, "bin") // only there memory is measured
	small.Collector, small.Supervised, small.Trial = s.small.Collector, s.small.Supervised, longTrial
	small.Only = []string{compare.BadAfterASecond}
	s.small = small
	b = &bench{settings: s, report: &report{settings: s, progress: os.Stderr}, gatedSettings: s.full}
	b.gatedSettings.Gates = gates
	for _, part := range []struct {
		settings compare.Settings
		systems  *[]compare.System
		rows     *[]compare.Row
	}{
		{s.full, &b.systems, &b.failures},
		{b.gatedSettings, &b.gated, nil},
		{s.small, &b.small, &b.turnsBad},
	} {
		var leftOut []string
		if *part.systems, leftOut, err = compare.Available(ctx, part.settings, filepath.Join(dir, "probe")); err != nil {
			return nil, err
		}
		if part.rows == nil {
			continue
		}
		b.report.leftOut = append(b.report.leftOut, leftOut...)
		if *part.rows, err = compare.Possible(ctx, part.settings); err != nil {
			return nil, err
		}
	}
	b.report.systems = b.systems
	return b, nil
}

// repetition measures everything once.
type repetition struct {
	*bench
	number int
	dir    string
	// worlds are in the order of bench.systems; nil where a measurement has failed.
	worlds []*compare.World
}

// settle is how long systems are left alone after they have started, before they
// count as idle.
const settle = time.Second

func (r *repetition) measure(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, stopAll(ctx, r.worlds)) }()
	for _, part := range []func(context.Context) error{r.starts, r.idle, r.underLoad, r.fullChanges, r.fail, r.rest} {
		if err := part(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// each calls do for each system, beginning with another one in each repetition. What
// fails is in the report, and the system is ended.
func (r *repetition) each(ctx context.Context, what string, systems []compare.System, worlds []*compare.World, do func(i int) error) error {
	for j := range systems {
		i := (r.number + j) % len(systems)
		if worlds[i] == nil {
			continue
		}
		err := do(i)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			r.report.problem(what, systems[i], err)
			ended := worlds[i]
			worlds[i] = nil
			if err := ended.Stop(context.WithoutCancel(ctx)); err != nil {
				return fmt.Errorf("stopping %s: %w", systems[i].Key, err)
			}
		}
	}
	return nil
}

func (r *repetition) starts(ctx context.Context) error {
	r.worlds = make([]*compare.World, len(r.systems))
	for j := range r.systems {
		i := (r.number + j) % len(r.systems)
		sys := r.systems[i]
		w, b, err := compare.StartMeasured(ctx, r.settings.full, sys, filepath.Join(r.dir, sys.Key))
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		if err != nil {
			r.report.problem("start", sys, err)
			if w, err = compare.StartWorld(ctx, r.settings.full, sys, filepath.Join(r.dir, sys.Key+"-again")); err != nil {
				return fmt.Errorf("starting %s: %w", sys.Key, err)
			}
			r.worlds[i] = w
			continue
		}
		r.worlds[i] = w
		r.report.duration(startMessage, sys, b.Message)
		r.report.duration(startHealthy, sys, b.Healthy)
		r.report.duration(startAccepted, sys, b.Accepted)
	}
	return nil
}

func (r *repetition) idle(ctx context.Context) error {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	uses, err := compare.WatchIdle(ctx, r.worlds, 3*r.settings.watch)
	if err != nil {
		return fmt.Errorf("watching idle systems: %w", err)
	}
	for i, u := range uses {
		r.report.use(idle, r.systems[i], u)
	}
	return nil
}

func (r *repetition) underLoad(ctx context.Context) error {
	return r.each(ctx, "under load", r.systems, r.worlds, func(i int) error {
		u, err := r.worlds[i].WatchLoad(ctx, r.settings.watch)
		if err != nil {
			return err
		}
		r.report.use(loaded, r.systems[i], u.Use)
		r.report.duration(latency, r.systems[i], u.P99)
		r.report.add(throughput, r.systems[i], u.Throughput)
		return nil
	})
}

func (r *repetition) fullChanges(ctx context.Context) error {
	return r.each(ctx, full, r.systems, r.worlds, func(i int) error {
		c, err := r.worlds[i].FullChange(ctx)
		if err != nil {
			return err
		}
		r.report.change(full, r.systems[i], c)
		return nil
	})
}

// fail measures what fails, with the full distribution. The plain Collector has no way
// back and is stopped.
func (r *repetition) fail(ctx context.Context) error {
	var systems []compare.System
	var worlds, plain []*compare.World
	for i, sys := range r.systems {
		if !sys.Managed {
			plain = append(plain, r.worlds[i])
			continue
		}
		systems, worlds = append(systems, sys), append(worlds, r.worlds[i])
	}
	r.worlds = nil // Measure stops them
	err := stopAll(ctx, plain)
	outcomes, failed := (&compare.Repetition{
		Settings: r.settings.full, Systems: systems, Rows: r.failures, Worlds: worlds, Dir: r.dir,
	}).Measure(ctx, r.number)
	r.report.outcomes(systems, outcomes)
	return errors.Join(err, failed)
}

// rest measures what needs other processes: the change of receivers with the gates,
// and the component that turns bad.
func (r *repetition) rest(ctx context.Context) error {
	var small []compare.System
	for _, sys := range r.small {
		if sys.Managed {
			small = append(small, sys)
		}
	}
	gated, bad := make([]*compare.World, len(r.gated)), make([]*compare.World, len(small))
	errs := make([]error, len(gated)+len(bad))
	var starts sync.WaitGroup // all at once: their starts are not measured
	for i, sys := range r.gated {
		starts.Go(func() {
			gated[i], errs[i] = compare.StartWorld(ctx, r.gatedSettings, sys, filepath.Join(r.dir, "gates-"+sys.Key))
		})
	}
	for i, sys := range small {
		starts.Go(func() {
			bad[i], errs[len(gated)+i] = compare.StartWorld(ctx, r.settings.small, sys, filepath.Join(r.dir, "small-"+sys.Key))
		})
	}
	starts.Wait()
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, stopAll(ctx, gated), stopAll(ctx, bad))
	}
	err := r.each(ctx, receivers, r.gated, gated, func(i int) error {
		c, err := gated[i].ReceiversChange(ctx)
		if err != nil {
			return err
		}
		r.report.change(receivers, r.gated[i], c)
		return nil
	})
	if err = errors.Join(err, stopAll(ctx, gated)); err != nil {
		return errors.Join(err, stopAll(ctx, bad))
	}
	outcomes, err := (&compare.Repetition{
		Settings: r.settings.small, Systems: small, Rows: r.turnsBad, Worlds: bad, Dir: filepath.Join(r.dir, "small"),
	}).Measure(ctx, r.number)
	r.report.outcomes(small, outcomes)
	return err
}

// stopAll stops those that are there, all at once.
func stopAll(ctx context.Context, worlds []*compare.World) error {
	errs := make([]error, len(worlds))
	var stops sync.WaitGroup
	for i, w := range worlds {
		if w != nil {
			stops.Go(func() { errs[i] = w.Stop(context.WithoutCancel(ctx)) })
		}
	}
	stops.Wait()
	return errors.Join(errs...)
}
