// Command bench measures this project's Collector beside contrib's supervisor and a
// plain Collector, in turns, and prints a Markdown table. docs/benchmarks.md explains
// its rows.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/internal/compare"
)

func main() {
	var s settings
	flag.StringVar(&s.full.Collector, "collector", "../bin/otelcol-opamp", "this project's Collector; the plain Collector is the same without its components")
	flag.StringVar(&s.full.Supervised, "supervised", "../bin/otelcol-supervised-full", "the Collector that the supervisor runs, with the same components")
	flag.StringVar(&s.full.Supervisor, "supervisor", "../bin/opampsupervisor", "contrib's supervisor")
	flag.StringVar(&s.small.Collector, "small-collector", "../bin/otelcol-opamp-testbed", "this project's Collector with a component that fails on command")
	flag.StringVar(&s.small.Supervised, "small-supervised", "../bin/otelcol-supervised", "the same for the supervisor")
	flag.IntVar(&s.repetitions, "repetitions", 10, "how often each row is measured on each system")
	flag.Float64Var(&s.full.Rate, "rate", 500, "requests per second")
	flag.Float64Var(&s.full.PatientRate, "patient-rate", 100, "requests per second of the client with gRPC's default backoff")
	flag.DurationVar(&s.full.Trial, "trial", time.Second, "the trial period, and the time limit for a candidate to start")
	flag.DurationVar(&s.watch, "watch", 2*time.Second, "how long a system is watched under load, and with as much load as it takes; three times as long without")
	flag.StringVar(&s.json, "json", "", "a file for the figures")
	flag.StringVar(&s.full.Keep, "keep", "", "a folder in which logs, configurations and state are kept")
	systems := flag.String("systems", strings.Join(defaultSystems(), ","), "what is measured; also possible: "+compare.SupervisorDefault)
	flag.Parse()
	s.full.Systems = strings.Split(*systems, ",")
	s.full.Repetitions = s.repetitions
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // what was deferred ends with the process
	}
}

func defaultSystems() []string {
	return []string{compare.Ours, compare.Guard, compare.Supervisor, compare.SupervisorHUP, compare.Floor}
}

// settings are the flags.
type settings struct {
	// full is for nearly all rows, small for those that need a component that fails.
	full, small compare.Settings
	repetitions int
	watch       time.Duration
	json        string
}

// longTrial is the trial of the row whose component fails after 1 s: it must still be
// in its trial then.
const longTrial = 2 * time.Second

// gates are those of the partial reload.
const gates = "service.partialReload,service.partialReloadReceivers"

func run(ctx context.Context, s settings) error {
	dir := s.full.Keep
	if dir == "" {
		made, err := os.MkdirTemp("", "otelcol-opamp-bench")
		if err != nil {
			return fmt.Errorf("making a folder: %w", err)
		}
		defer os.RemoveAll(made) //nolint:errcheck // a folder in the system's place for such
		dir = made
	}
	// Absolute, because the state folder must be.
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("locating the folder: %w", err)
	}
	b, err := prepare(ctx, s, dir)
	if err != nil {
		return err
	}
	b.report.begun, b.report.before = time.Now(), compare.LoadAverage()
	for i := range s.repetitions {
		r := repetition{bench: b, number: i, dir: filepath.Join(dir, fmt.Sprintf("%02d", i+1))}
		if err := r.measure(ctx); err != nil {
			return fmt.Errorf("repetition %d: %w", i+1, err)
		}
		fmt.Fprintf(os.Stderr, "%d of %d repetitions after %s\n", i+1, s.repetitions, time.Since(b.report.begun).Round(time.Second))
	}
	b.report.after, b.report.ended = compare.LoadAverage(), time.Now()
	if s.json != "" {
		if err := b.report.write(s.json); err != nil {
			return err
		}
	}
	fmt.Print(b.report.String())
	return nil
}
