// Command run starts the development server and a Collector, says where to look
// and how to push a configuration, and stops both when it is told to end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

type settings struct {
	server, collector, config, state string
}

func main() {
	var set settings
	flag.StringVar(&set.server, "server", "../bin/opampserver", "the development server's binary")
	flag.StringVar(&set.collector, "collector", "../bin/otelcol-opamp-testbed", "the Collector's binary")
	flag.StringVar(&set.config, "config", "../distribution/config.yaml", "the local configuration")
	flag.StringVar(&set.state, "state", "", "the folder for state and logs")
	flag.Parse()
	if err := run(set); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

// startTime bounds the start, stopTime the stop of a program.
const (
	startTime = 20 * time.Second
	stopTime  = 15 * time.Second
)

func run(set settings) (err error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	if set.state, err = filepath.Abs(set.state); err != nil {
		return err
	}
	if err := os.MkdirAll(set.state, 0o700); err != nil {
		return fmt.Errorf("making the folder for state and logs: %w", err)
	}
	server, err := otelcol.Start(otelcol.Settings{Binary: set.server, LogTo: os.Stdout})
	if err != nil {
		return fmt.Errorf("starting the development server: %w", err)
	}
	defer func() { err = errors.Join(err, stop("development server", server)) }()
	if err := started(ctx, server, "/api/config"); err != nil {
		return fmt.Errorf("starting the development server: %w", err)
	}

	log, err := os.OpenFile(filepath.Join(set.state, "collector.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) // a second run here ends at the server, and takes nothing from the first
	if err != nil {
		return fmt.Errorf("opening the Collector's log: %w", err)
	}
	defer log.Close() //nolint:errcheck // a log
	collector, err := otelcol.Start(otelcol.Settings{
		Binary: set.collector,
		Args:   []string{"--config=" + set.config, "--config=opamp:?state_dir=" + filepath.Join(set.state, "state")},
		LogTo:  io.MultiWriter(log, changes{}),
	})
	if err != nil {
		return fmt.Errorf("starting the Collector: %w", err)
	}
	defer func() { err = errors.Join(err, stop("Collector", collector)) }()
	if err := started(ctx, collector, "Everything is ready"); err != nil {
		return fmt.Errorf("starting the Collector: %w", err)
	}
	fmt.Printf(`
The Collector runs as process %d; its log is %s.
Open http://127.0.0.1:4321/ to see it and to push a configuration, or paste:

curl -sS -X PUT 'http://127.0.0.1:4321/api/config?wait=30s' --data-binary @- <<'END'
processors:
  resource: {attributes: [{key: team, value: payments, action: upsert}]}
exporters:
  debug: {verbosity: detailed}
service:
  pipelines:
    metrics: {receivers: [host_metrics], processors: [resource], exporters: [debug]}
END

Ctrl-C stops both.

`, collector.PID(), log.Name())

	select {
	case <-ctx.Done():
		fmt.Println("\nStopping.")
		return nil
	case <-collector.Exited():
		return fmt.Errorf("the Collector has ended; the end of its log:\n%s", tail(collector.Log(), 10))
	case <-server.Exited():
		return fmt.Errorf("the development server has ended:\n%s", tail(server.Log(), 10))
	}
}

func started(ctx context.Context, p *otelcol.Process, line string) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return p.WaitLog(ctx, line)
}

// stop ends a program in order, and whatever it may have left.
func stop(name string, p *otelcol.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err := p.Stop(ctx)
	if kill := p.KillAll(); err == nil && kill != nil && !errors.Is(kill, os.ErrProcessDone) {
		err = kill
	}
	if err != nil {
		return fmt.Errorf("stopping the %s: %w", name, err)
	}
	return nil
}

// changes shows the lines of the Collector's log that tell of a change.
type changes struct{}

// Write implements [io.Writer]; it is given whole lines.
func (changes) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		for _, telling := range []string{"Remote configuration rollout", "OpAMP server", "\terror\t"} {
			if strings.Contains(line, telling) {
				fmt.Print("collector: ", withoutResource(line))
				break
			}
		}
	}
	return len(p), nil
}

// withoutResource drops the attributes that every line has.
func withoutResource(line string) string {
	head, rest, ok := strings.Cut(line, `"resource": {`)
	if !ok {
		return line
	}
	_, rest, _ = strings.Cut(rest, "}")
	return head + strings.TrimPrefix(rest, ", ")
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
