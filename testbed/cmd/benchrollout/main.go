// Command benchrollout measures a change of configuration under load, as the
// server, the client and the sink see it, and prints a Markdown table.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
)

func main() {
	binary := flag.String("collector", "../bin/otelcol-opamp", "the Collector's binary")
	changes := flag.Int("changes", 100, "how many configurations are applied")
	rate := flag.Float64("rate", 500, "requests per second")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, *binary, *changes, *rate); err != nil {
		fmt.Fprintln(os.Stderr, "benchrollout:", err)
		os.Exit(1) //nolint:gocritic // what was deferred ends with the process
	}
}

// trial is short, so that many changes fit into a run; it is taken off.
const trial = 100 * time.Millisecond

const localConfig = `
extensions:
  opamp:
    server: {ws: {endpoint: "%s"}}
    rollout: {trial_period: %s}
receivers:
  otlp: {protocols: {grpc: {endpoint: "%s"}}}
processors:
  batch: {timeout: 20ms}
exporters:
  otlp_grpc: {endpoint: "%s", tls: {insecure: true}}
service:
  telemetry: {metrics: {level: none}}
  extensions: [opamp]
  pipelines:
    traces: {receivers: [otlp], processors: [batch], exporters: [otlp_grpc]}
`

const remoteConfig = `
processors:
  attributes: {actions: [{key: change, value: "%d", action: upsert}]}
service:
  pipelines:
    traces: {receivers: [otlp], processors: [attributes, batch], exporters: [otlp_grpc]}
`

// change holds the durations of one change.
type change struct {
	dryRun, stopToReady, applied, total, inSink time.Duration
	refused                                     int
	gap                                         time.Duration
}

func run(ctx context.Context, binary string, changes int, rate float64) (err error) {
	dir, err := os.MkdirTemp("", "otelcol-opamp-bench")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder in the system's place for such
	server, err := opampserver.Start(opampserver.Settings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
	spans, err := sink.Start(sink.Settings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spans.Stop(context.WithoutCancel(ctx))) }()
	otlp, err := otelcol.FreeAddr()
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, localConfig, server.WSURL(), trial, otlp, spans.Endpoint()), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	collector, err := otelcol.Start(otelcol.Settings{
		Binary: binary,
		Args:   []string{"--config=" + config, "--config=opamp:?state_dir=" + filepath.Join(dir, "state")},
	})
	if err != nil {
		return fmt.Errorf("starting the Collector: %w", err)
	}
	defer func() { err = errors.Join(err, collector.Stop(context.WithoutCancel(ctx))) }()
	if err := collector.WaitLog(ctx, "Everything is ready"); err != nil {
		return err
	}
	agent, err := server.WaitAgent(ctx)
	if err != nil {
		return err
	}
	generator, err := load.Start(load.Settings{Endpoint: otlp, Rate: rate})
	if err != nil {
		return err
	}
	var measured []change
	var windows [][2]time.Time
	for i := range changes {
		c, window, err := measure(ctx, server, spans, collector, agent.UID, i)
		if err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
		measured, windows = append(measured, c), append(windows, window)
		fmt.Fprintf(os.Stderr, "\r%d of %d changes", i+1, changes)
	}
	fmt.Fprintln(os.Stderr)
	result := generator.Stop(ctx)
	for i, w := range windows {
		measured[i].refused = len(result.RefusedBetween(w[0], w[1]))
		measured[i].gap, _ = result.LongestGapBetween(w[0], w[1])
	}
	if err := spans.WaitSpans(ctx, result.Run, result.Accepted); err != nil {
		return fmt.Errorf("accepted spans were lost: %w", err)
	}
	report(measured, result, server.Connections(), rate)
	return nil
}

func measure(ctx context.Context, server *opampserver.Server, spans *sink.Sink, collector *otelcol.Process, uid string, i int) (c change, window [2]time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	mark := collector.LogMark()
	begin := time.Now()
	hash := server.OfferToAll(opampserver.YAML(fmt.Sprintf(remoteConfig, i)))
	seen, err := spans.WaitAttribute(ctx, "change", strconv.Itoa(i))
	if err != nil {
		return c, window, err
	}
	if _, err := server.WaitStatus(ctx, uid, hash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED); err != nil {
		return c, window, err
	}
	at := func(text string) time.Time {
		for _, line := range collector.Lines() {
			if line.Index >= mark && strings.Contains(line.Text, text) {
				return line.Time
			}
		}
		return time.Time{}
	}
	var told time.Time
	for _, m := range server.Messages() {
		s := m.Received.GetRemoteConfigStatus()
		if s != nil && bytes.Equal(s.GetLastRemoteConfigHash(), hash) && s.GetStatus() == protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED {
			told = m.Time
		}
	}
	checked, stop, ready := at(`"to": "applying"`), at("Starting shutdown..."), at(`"to": "trial"`)
	return change{
		dryRun:      checked.Sub(begin),
		stopToReady: ready.Sub(stop),
		applied:     told.Sub(ready) - trial,
		total:       told.Sub(begin) - trial,
		inSink:      seen.Sub(begin),
	}, [2]time.Time{begin, told}, nil
}

func report(measured []change, result load.Result, connections int, rate float64) {
	fmt.Printf("%d changes under %.0f requests/s, %d CPUs, %s, %s/%s\n\n", len(measured), rate, runtime.NumCPU(), time.Now().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH)
	fmt.Println("| row | median | p99 |\n| --- | ---: | ---: |")
	for _, row := range []struct {
		name string
		of   func(change) time.Duration
	}{
		{"offer sent → dry run done", func(c change) time.Duration { return c.dryRun }},
		{"service begins to stop → Ready", func(c change) time.Duration { return c.stopToReady }},
		{"Ready → APPLIED received, minus the trial", func(c change) time.Duration { return c.applied }},
		{"offer sent → APPLIED received, minus the trial", func(c change) time.Duration { return c.total }},
		{"offer sent → first span with the new attribute in the sink", func(c change) time.Duration { return c.inSink }},
		{"longest interval without a success", func(c change) time.Duration { return c.gap }},
	} {
		values := make([]time.Duration, len(measured))
		for i, c := range measured {
			values[i] = row.of(c)
		}
		slices.Sort(values)
		fmt.Printf("| %s | %.1f ms | %.1f ms |\n", row.name, ms(quantile(values, 0.5)), ms(quantile(values, 0.99)))
	}
	refused := make([]time.Duration, len(measured))
	for i, c := range measured {
		refused[i] = time.Duration(c.refused)
	}
	slices.Sort(refused)
	fmt.Printf("| requests refused per change | %d | %d |\n", quantile(refused, 0.5), quantile(refused, 0.99))
	fmt.Printf("\n%d requests, %d accepted, %d refused, 0 accepted spans lost, %d OpAMP connection(s)\n",
		result.Sent, len(result.Accepted), len(result.Refused), connections)
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
