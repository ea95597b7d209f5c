//go:build unix

package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The Collector's own telemetry goes through the Collector itself. At each reload
// it has nowhere to go (core issue 11591), which must neither hold up the reload
// nor count against a configuration.
//
// Spans that nobody takes are dropped. For metrics and log records the host takes
// that for a failure of the retiring configuration to stop, and ends: a stock
// Collector does not survive its first reload. This one replaces itself each time,
// so that the server sees a new connection.
func TestOwnTelemetryThatLoopsBackSurvivesReloads(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes long")
	}
	const (
		// changes is how many reloads, warmUp after how many of them the runtime and
		// the libraries have settled.
		changes, warmUp = 50, 5
		// timeout is for each export of own telemetry, in milliseconds. With the
		// default, 10 s, each kind holds up each reload for as long.
		timeout = 200
	)
	// longest is what a change may take: some 500 ms, and less than the default
	// timeout of an export.
	longest := 5 * time.Second
	if slow() {
		longest *= 4
	}
	const (
		spans = `
    traces: {processors: [{batch: {schedule_delay: 100, exporter: %[1]s}}]}`
		metrics = `
    metrics: {level: detailed, readers: [{periodic: {interval: 100, exporter: %[1]s}}]}`
		records = `
    logs: {processors: [{batch: {schedule_delay: 100, exporter: %[1]s}}]}`
	)
	for name, tt := range map[string]struct {
		telemetry string
		inPlace   bool
		exit      int // code after SIGTERM, which is the host's own
		arrive    func(w *world)
	}{
		"spans": {spans, true, 0, func(w *world) {
			_, err := w.sink.WaitAttributeAfter(patiently(w.t), "service.name", "otelcol-opamp-testbed", time.Now())
			require.NoError(w.t, err)
		}},
		"metrics, log records and spans": {metrics + records + spans, false, 1, func(w *world) {
			points := w.sink.MetricPoints("otelcol_process_uptime")
			eventually(w.t, func() bool { return w.sink.MetricPoints("otelcol_process_uptime") > points }, "metrics must arrive")
			require.Positive(w.t, w.sink.LogRecords())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{rollout: "{trial_period: 50ms}"})
			profiles := freeAddr(t)
			exporter := fmt.Sprintf("{otlp: {protocol: grpc, endpoint: %q, timeout: %d}}", "http://"+w.receiver, timeout)
			c := w.start(w.args(
				w.layer("loop.yaml", fmt.Sprintf(`
service:
  pipelines:
    metrics: {receivers: [otlp], processors: [batch], exporters: [otlp_grpc]}
    logs: {receivers: [otlp], processors: [batch], exporters: [otlp_grpc]}
  telemetry:`+tt.telemetry, exporter)),
				w.layer("profiles.yaml", fmt.Sprintf("extensions: {fault: {pprof: %q}}\nservice: {extensions: [opamp, fault]}", profiles)),
			))
			agent := w.managed()
			l := w.load(w.receiver)
			var slowest time.Duration
			change := func(from, to int) {
				for i := from; i < to; i++ {
					mark := fmt.Sprint("change ", i)
					begin := time.Now()
					w.apply(agent, marking(mark))
					slowest = max(slowest, time.Since(begin))
					w.seen(mark)
				}
			}
			change(0, warmUp)
			goroutines := w.goroutines(profiles)
			change(warmUp, changes)
			eventually(t, func() bool { return w.goroutines(profiles) <= goroutines+inFlight }, "goroutines must not grow")
			tt.arrive(w)
			t.Logf("the slowest change took %s", slowest)
			assert.Less(t, slowest, longest, "from the offer to APPLIED")
			assert.Equal(t, changes, c.count(logReload))
			for _, s := range w.statuses(0) {
				assert.NotEqual(t, failed, s.state, s.message)
			}
			c.requireAlive()
			c.requireNoChildren()
			require.Len(t, w.server.Agents(), 1)
			if tt.inPlace {
				assert.Zero(t, c.count(logReplacing))
				w.requireOneSession()
			} else {
				assert.Equal(t, changes, c.count(logReplaced))
			}
			result := l.requireNothingLost()
			t.Logf("refused on average: %d requests per change", len(result.Refused)/changes)
			assert.Equal(t, tt.exit, c.terminate(), "exit code after SIGTERM")
		})
	}
}
