// Command demo shows the product at work, unattended: it starts an OpAMP
// server, a sink and the Collector, offers a good, an invalid and a harmful
// configuration, prints what happened when, and exits with 0 only if all of it
// was as promised.
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

	"github.com/open-telemetry/opamp-go/protobufs"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/sink"
)

func main() {
	binary := flag.String("collector", "../bin/otelcol-opamp-testbed", "the Collector's binary")
	flag.Parse()
	if err := run(*binary); err != nil {
		fmt.Fprintln(os.Stderr, "demo: it did not go as promised:", err)
		os.Exit(1)
	}
	fmt.Println("\nAll of it happened as promised.")
}

// limit bounds the demonstration; it takes some 15 s.
const limit = 55 * time.Second

func run(binary string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, limit)
	defer cancel()
	dir, err := os.MkdirTemp("", "otelcol-opamp-demo")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder in the system's place for such
	d := &demo{begin: time.Now(), dir: dir}
	defer d.end()
	if err := d.start(ctx, binary); err != nil {
		return err
	}
	for _, act := range []func(context.Context) error{d.local, d.good, d.invalid, d.harmful, d.epilogue} {
		if err := act(ctx); err != nil {
			return fmt.Errorf("%w\nthe end of the Collector's log:\n%s", err, tail(d.collector.Log(), 20))
		}
	}
	return nil
}

// demo is the stage.
type demo struct {
	begin     time.Time
	dir       string
	server    *opampserver.Server
	sink      *sink.Sink
	collector *otelcol.Process
	uid       string
	goodHash  []byte
	printed   int // messages of the server's record that were printed
}

func (d *demo) say(who, format string, args ...any) {
	fmt.Printf("%7.3fs  %-9s  %s\n", time.Since(d.begin).Seconds(), who, fmt.Sprintf(format, args...))
}

const localConfig = `
extensions:
  opamp:
    server: {ws: {endpoint: "%s"}}
    rollout: {trial_period: 2s}
receivers:
  host_metrics:
    collection_interval: 500ms
    initial_delay: 100ms
    scrapers: {cpu: , memory: , load: }
exporters:
  otlp_grpc: {endpoint: "%s", tls: {insecure: true}}
service:
  telemetry: {metrics: {level: none}}
  extensions: [opamp]
  pipelines:
    metrics: {receivers: [host_metrics], exporters: [otlp_grpc]}
`

const goodConfig = `
processors:
  resource: {attributes: [{key: demo, value: good, action: upsert}]}
service:
  pipelines:
    metrics: {receivers: [host_metrics], processors: [resource], exporters: [otlp_grpc]}
`

const invalidConfig = `
exporters:
  no_such_exporter: {}
service:
  pipelines:
    metrics: {receivers: [host_metrics], exporters: [no_such_exporter]}
`

const harmfulConfig = `
processors:
  resource: {attributes: [{key: demo, value: harmful, action: upsert}]}
exporters:
  fault: {after: 700ms, then: permanent_error, message: "the backend does not know us any more"}
service:
  pipelines:
    metrics: {receivers: [host_metrics], processors: [resource], exporters: [otlp_grpc, fault]}
`

func (d *demo) start(ctx context.Context, binary string) error {
	var err error
	if d.server, err = opampserver.Start(opampserver.Settings{}); err != nil {
		return err
	}
	if d.sink, err = sink.Start(sink.Settings{}); err != nil {
		return err
	}
	config := filepath.Join(d.dir, "config.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, localConfig, d.server.WSURL(), d.sink.Endpoint()), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	d.say("demo", "an OpAMP server listens on %s, a sink on %s", d.server.WSURL(), d.sink.Endpoint())
	args := []string{"--config=" + config, "--config=opamp:?state_dir=" + filepath.Join(d.dir, "state")}
	if d.collector, err = otelcol.Start(otelcol.Settings{Binary: binary, Args: args}); err != nil {
		return fmt.Errorf("starting the Collector (make small builds it): %w", err)
	}
	d.say("demo", "the Collector runs as process %d", d.collector.PID())
	agent, err := d.server.WaitAgent(ctx)
	if err != nil {
		return err
	}
	d.uid = agent.UID
	return nil
}

func (d *demo) local(ctx context.Context) error {
	if err := d.sink.WaitMetric(ctx, "system.memory.usage"); err != nil {
		return err
	}
	d.timeline()
	d.say("sink", "receives host metrics by the local configuration")
	return nil
}

func (d *demo) good(ctx context.Context) error {
	d.say("demo", "1. offering a good configuration: it adds the attribute demo=good")
	d.goodHash = d.server.OfferToAll(opampserver.YAML(goodConfig))
	if _, err := d.server.WaitStatus(ctx, d.uid, d.goodHash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED); err != nil {
		return err
	}
	if _, err := d.sink.WaitAttribute(ctx, "demo", "good"); err != nil {
		return err
	}
	d.timeline()
	d.say("sink", "receives metrics with demo=good")
	agent, _ := d.server.Agent(d.uid)
	if !strings.Contains(agent.EffectiveConfig[""], "value: good") {
		return fmt.Errorf("the effective configuration is not the one that was applied:\n%s", agent.EffectiveConfig[""])
	}
	return nil
}

func (d *demo) invalid(ctx context.Context) error {
	d.say("demo", "2. offering an invalid configuration: it names an exporter that does not exist")
	mark := d.collector.LogMark()
	hash := d.server.OfferToAll(opampserver.YAML(invalidConfig))
	agent, err := d.server.WaitStatus(ctx, d.uid, hash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED)
	if err != nil {
		return err
	}
	if !strings.Contains(agent.RemoteConfigStatus.ErrorMessage, "no_such_exporter") {
		return fmt.Errorf("the reason does not name the cause: %s", agent.RemoteConfigStatus.ErrorMessage)
	}
	d.timeline()
	return d.stillGood(ctx, mark, 0)
}

func (d *demo) harmful(ctx context.Context) error {
	d.say("demo", "3. offering a harmful configuration: valid, but its exporter gives up after 0.7 s")
	mark := d.collector.LogMark()
	hash := d.server.OfferToAll(opampserver.YAML(harmfulConfig))
	agent, err := d.server.WaitStatus(ctx, d.uid, hash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED)
	if err != nil {
		return err
	}
	for _, want := range []string{"the backend does not know us any more", fmt.Sprintf("; running last known good %.8x", d.goodHash)} {
		if !strings.Contains(agent.RemoteConfigStatus.ErrorMessage, want) {
			return fmt.Errorf("the reason does not say %q: %s", want, agent.RemoteConfigStatus.ErrorMessage)
		}
	}
	if _, err := d.server.WaitFor(ctx, d.uid, func(a opampserver.Agent) bool { return strings.Contains(a.EffectiveConfig[""], "value: good") }); err != nil {
		return fmt.Errorf("waiting for the last known good to be reported: %w", err)
	}
	d.timeline()
	return d.stillGood(ctx, mark, 2)
}

// stillGood checks that the good configuration delivers, that the Collector
// reloaded as often as expected since mark, and that it is the same process
// with the same connection.
func (d *demo) stillGood(ctx context.Context, mark, reloads int) error {
	if _, err := d.sink.WaitAttributeAfter(ctx, "demo", "good", time.Now()); err != nil {
		return err
	}
	d.say("sink", "receives metrics with demo=good, still")
	seen := 0
	for _, line := range d.collector.Lines() {
		if line.Index >= mark && strings.Contains(line.Text, "Config updated, restart service") {
			seen++
		}
	}
	d.say("collector", "reloaded %d times for it; process %d, OpAMP connections so far: %d", seen, d.collector.PID(), d.server.Connections())
	if seen != reloads {
		return fmt.Errorf("the Collector reloaded %d times, expected %d", seen, reloads)
	}
	if n := d.server.Connections(); n != 1 {
		return fmt.Errorf("the agent connected %d times, expected once", n)
	}
	return nil
}

func (d *demo) epilogue(ctx context.Context) error {
	if err := d.collector.Stop(ctx); err != nil {
		return err
	}
	code, err := d.collector.Wait(ctx)
	if err != nil {
		return err
	}
	left, err := d.collector.Leftovers()
	if err != nil {
		return err
	}
	d.say("demo", "the Collector ended with code %d and left %d processes", code, len(left))
	if code != 0 || len(left) > 0 {
		return fmt.Errorf("the Collector ended with code %d and left the processes %v", code, left)
	}
	return nil
}

// timeline prints what the server saw since it was called last.
func (d *demo) timeline() {
	for _, m := range d.server.MessagesFrom(d.printed) {
		d.printed = m.Index + 1
		if m.Received == nil {
			continue
		}
		at := m.Time.Sub(d.begin).Seconds()
		if s := m.Received.GetRemoteConfigStatus(); s != nil && s.GetStatus() != protobufs.RemoteConfigStatuses_RemoteConfigStatuses_UNSET {
			status := strings.TrimPrefix(s.GetStatus().String(), "RemoteConfigStatuses_")
			fmt.Printf("%7.3fs  server     is told %s %.8x\n", at, status, s.GetLastRemoteConfigHash())
			if s.GetErrorMessage() != "" {
				fmt.Printf("%30s %s\n", "because:", strings.ReplaceAll(s.GetErrorMessage(), "\n", " "))
			}
		}
		if h := m.Received.GetHealth(); h != nil {
			fmt.Printf("%7.3fs  server     is told healthy=%t, %s\n", at, h.GetHealthy(), h.GetStatus())
		}
		if m.Received.GetEffectiveConfig() != nil {
			fmt.Printf("%7.3fs  server     is shown the effective configuration\n", at)
		}
	}
}

// end stops what is still running.
func (d *demo) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if d.collector != nil {
		_ = d.collector.KillAll() // it has ended long since, unless something failed
	}
	if d.server != nil {
		_ = d.server.Stop(ctx)
	}
	if d.sink != nil {
		_ = d.sink.Stop(ctx)
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
