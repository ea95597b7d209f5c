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
)

func main() {
	var s settings
	flag.StringVar(&s.collector, "collector", "../bin/otelcol-opamp", "this project's Collector")
	flag.StringVar(&s.supervised, "supervised", "../bin/otelcol-supervised-full", "the Collector that the supervisor runs, with the same components")
	flag.StringVar(&s.supervisor, "supervisor", "../bin/opampsupervisor", "contrib's supervisor")
	flag.IntVar(&s.repetitions, "repetitions", 10, "how often each row is measured on each system")
	flag.Float64Var(&s.rate, "rate", 500, "requests per second")
	flag.DurationVar(&s.trial, "trial", time.Second, "the trial period, and the time limit for a candidate to start")
	systems := flag.String("systems", "", "some of ours, guard, supervisor, supervisor-hup, separated by commas (default: all)")
	rows := flag.String("rows", "", "a part of the names of the rows to measure (default: all)")
	flag.StringVar(&s.keep, "keep", "", "a folder in which logs, configurations and state are kept")
	flag.Parse()
	s.rows = *rows
	if *systems != "" {
		s.systems = strings.Split(*systems, ",")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "benchrollback:", err)
		os.Exit(1) //nolint:gocritic // what was deferred ends with the process
	}
}

// settings are the flags.
type settings struct {
	collector, supervised, supervisor string
	repetitions                       int
	rate                              float64
	trial                             time.Duration
	systems                           []string // keys; all when empty
	rows                              string   // part of a name; all when empty
	keep                              string   // folder; nothing is kept when empty
}

func run(ctx context.Context, s settings) error {
	dir := s.keep
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
	systems, leftOut, err := available(ctx, s, dir)
	if err != nil {
		return err
	}
	rows, err := possible(ctx, s)
	if err != nil {
		return err
	}
	r := report{settings: s, systems: systems, leftOut: leftOut, rows: rows, begun: time.Now(), before: loadAverage()}
	for i := range s.repetitions {
		turn := repetition{
			settings: s, systems: systems, rows: rows,
			dir: filepath.Join(dir, fmt.Sprintf("%02d", i+1)),
			tell: func(sys system, o outcome) {
				fmt.Fprintf(os.Stderr, "%d/%d %s: %s\n", i+1, s.repetitions, sys.key, o)
			},
		}
		outcomes, err := turn.measure(ctx, i)
		if err != nil {
			return fmt.Errorf("repetition %d: %w", i+1, err)
		}
		r.outcomes = append(r.outcomes, outcomes...)
	}
	r.after = loadAverage()
	fmt.Print(r.String())
	return nil
}
