// Command benchrollback measures what a configuration that fails costs, under a
// steady load, for this project's Collector and for one that contrib's supervisor
// runs, and prints a Markdown table. docs/benchmarks.md explains its rows.
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
	var s compare.Settings
	flag.StringVar(&s.Collector, "collector", "../bin/otelcol-opamp", "this project's Collector")
	flag.StringVar(&s.Supervised, "supervised", "../bin/otelcol-supervised-full", "the Collector that the supervisor runs, with the same components")
	flag.StringVar(&s.Supervisor, "supervisor", "../bin/opampsupervisor", "contrib's supervisor")
	flag.IntVar(&s.Repetitions, "repetitions", 10, "how often each row is measured on each system")
	flag.Float64Var(&s.Rate, "rate", 500, "requests per second")
	flag.DurationVar(&s.Trial, "trial", time.Second, "the trial period, and the time limit for a candidate to start")
	systems := flag.String("systems", "", "some of ours, guard, supervisor, supervisor-hup, supervisor-default, separated by commas (default: all but the last)")
	rows := flag.String("rows", "", "a part of the names of the rows to measure (default: all)")
	flag.StringVar(&s.Keep, "keep", "", "a folder in which logs, configurations and state are kept")
	flag.Parse()
	s.Rows = *rows
	if *systems != "" {
		s.Systems = strings.Split(*systems, ",")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "benchrollback:", err)
		os.Exit(1) //nolint:gocritic // what was deferred ends with the process
	}
}

func run(ctx context.Context, s compare.Settings) error {
	dir := s.Keep
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
	systems, leftOut, err := compare.Available(ctx, s, dir)
	if err != nil {
		return err
	}
	rows, err := compare.Possible(ctx, s)
	if err != nil {
		return err
	}
	r := report{settings: s, systems: systems, leftOut: leftOut, rows: rows, begun: time.Now(), before: compare.LoadAverage()}
	for i := range s.Repetitions {
		turn := compare.Repetition{
			Settings: s, Systems: systems, Rows: rows,
			Dir: filepath.Join(dir, fmt.Sprintf("%02d", i+1)),
			Tell: func(sys compare.System, o compare.Outcome) {
				fmt.Fprintf(os.Stderr, "%d/%d %s: %s\n", i+1, s.Repetitions, sys.Key, o)
			},
		}
		outcomes, err := turn.Measure(ctx, i)
		if err != nil {
			return fmt.Errorf("repetition %d: %w", i+1, err)
		}
		r.outcomes = append(r.outcomes, outcomes...)
	}
	r.after = compare.LoadAverage()
	fmt.Print(r.String())
	return nil
}
