//go:build unix

package e2e_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// scrapable is a layer that lets the Collector's own metrics be scraped.
func scrapable(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`
service: {telemetry: {metrics: {level: normal, readers: [{pull: {exporter: {prometheus: {host: %q, port: %s}}}}]}}}
`, host, port)
}

// scrape returns the Collector's own metrics whose names begin with a text, in
// Prometheus' text format without the labels that all of them have.
func (w *world) scrape(addr, prefix string) string {
	req, err := http.NewRequestWithContext(patiently(w.t), http.MethodGet, "http://"+addr+"/metrics", http.NoBody)
	require.NoError(w.t, err)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "" // between two generations
	}
	defer res.Body.Close() //nolint:errcheck // it is only read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		line = strings.TrimSpace(line)
		space := strings.LastIndexByte(line, ' ') // labels may have some, too
		name, labels, _ := strings.Cut(line[:space], "{")
		var own []string
		for label := range strings.SplitSeq(strings.TrimSuffix(labels, "}"), `",`) {
			if key, _, _ := strings.Cut(label, "="); key != "" && !strings.HasPrefix(key, "otel_scope") && !strings.HasPrefix(key, "service_") {
				own = append(own, strings.TrimSuffix(label, `"`)+`"`)
			}
		}
		lines = append(lines, fmt.Sprintf("%s{%s} %s", name, strings.Join(own, ","), line[space+1:]))
	}
	return strings.Join(lines, "\n")
}

// The Collector's own metrics tell of the connection, of what became of offers,
// also by a process that was replaced, and of the ladder.
func TestOwnMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	addr := freeAddr(t)
	c := w.start(w.args(w.layer("metrics.yaml", scrapable(addr))))
	agent := w.managed()
	good := w.apply(agent, marking("good"))
	bad := w.offer(withFault("bad", "fail_start: true"))
	w.await(agent, bad, failed)
	refused := w.offer("receivers: {nothing: {}}")
	w.await(agent, refused, failed)

	var got string
	eventually(t, func() bool {
		got = w.scrape(addr, "otelcol_opamp_")
		return strings.Contains(got, `outcome="refused"`)
	}, "the outcome of the last offer")
	for _, want := range []string{
		`otelcol_opamp_connected{} 1`,
		`otelcol_opamp_offers{outcome="applied",reason=""} 1`,
		`otelcol_opamp_offers{outcome="rolled back",reason="start"} 1`,
		`otelcol_opamp_offers{outcome="refused",reason=""} 1`,
		`otelcol_opamp_config_last_apply_successful{} 0`,
		`otelcol_opamp_rung{rung="last known good"} 1`,
		`otelcol_opamp_failed_starts{} 0`,
		`otelcol_opamp_state_write_errors{} 0`,
		`otelcol_opamp_custom_messages_dropped{direction="sent"} 0`,
		`otelcol_opamp_custom_messages_dropped{direction="received"} 0`,
		fmt.Sprintf(`otelcol_opamp_config_info{hash="%.8x",role="running"} 1`, good),
		fmt.Sprintf(`otelcol_opamp_config_info{hash="%.8x",role="received"} 1`, refused),
	} {
		assert.Contains(t, got, want)
	}
	for _, name := range []string{
		"otelcol_opamp_connections{} ", "otelcol_opamp_config_last_apply_success_timestamp{} ",
		`otelcol_opamp_io{direction="sent"} `, `otelcol_opamp_io{direction="received"} `,
		`otelcol_opamp_messages{direction="sent"} `, `otelcol_opamp_messages{direction="received"} `,
	} {
		assert.Contains(t, got, name)
		assert.NotContains(t, got, name+"0\n", name)
	}
	w.apply(agent, marking("better"))
	eventually(t, func() bool {
		return strings.Contains(w.scrape(addr, "otelcol_opamp_"), "otelcol_opamp_apply_duration_count{} 1")
	}, "the time that the offer took")
	c.requireAlive()
}
