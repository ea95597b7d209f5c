package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

const (
	// restartDelay is how long a service manager waits before it starts a process
	// again: the default of systemd's RestartSec.
	restartDelay = 100 * time.Millisecond
	// answerTime bounds subcommands of a Collector, the full one on a busy machine.
	answerTime = time.Minute
)

// system is one of what is compared.
type system struct {
	key string
	// name is for the table.
	name string
	// prepare writes the files of a world and says what to run.
	prepare func(w *world) (otelcol.Settings, error)
}

// all are the systems, in the order of the table.
func all(s settings) []system {
	return []system{
		{"ours", "otelcol-opamp", ours(s, "")},
		{"guard", "otelcol-opamp with guard", ours(s, "&guard=true")},
		{"supervisor", "opampsupervisor", supervisor(s, false)},
		{"supervisor-hup", "opampsupervisor, `use_hup_config_reload`", supervisor(s, true)},
	}
}

// available returns the systems that are wanted and work, and why others are left
// out.
func available(ctx context.Context, s settings, dir string) (systems []system, leftOut []string, err error) {
	for _, key := range s.systems {
		if !slices.ContainsFunc(all(s), func(sys system) bool { return sys.key == key }) {
			return nil, nil, fmt.Errorf("system %q is unknown", key)
		}
	}
	for _, sys := range all(s) {
		if len(s.systems) > 0 && !slices.Contains(s.systems, sys.key) {
			continue
		}
		if sys.key == "guard" {
			known, err := knowsGuard(ctx, s, dir)
			if err != nil {
				return nil, nil, err
			}
			if !known {
				leftOut = append(leftOut, fmt.Sprintf("%s: %s does not know the parameter `guard`.", sys.name, filepath.Base(s.collector)))
				continue
			}
		}
		systems = append(systems, sys)
	}
	if len(systems) == 0 {
		return nil, nil, errors.New("no system is left to be measured")
	}
	return systems, leftOut, nil
}

// knowsGuard reports whether the Collector accepts the parameter.
func knowsGuard(ctx context.Context, s settings, dir string) (bool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("making a folder: %w", err)
	}
	w := &world{dir: dir}
	local, err := w.write("probe.yaml", pipeline, "127.0.0.1:0", "127.0.0.1:0") // never listened on
	if err != nil {
		return false, err
	}
	_, err = ask(ctx, s.collector, "validate", "--config="+local, "--config=opamp:?state_dir="+filepath.Join(dir, "probe")+"&guard=true")
	if err != nil && strings.Contains(err.Error(), `unknown parameter "guard"`) {
		return false, nil
	}
	return err == nil, err
}

// ask runs a subcommand and returns its output.
func ask(ctx context.Context, binary string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	p, err := otelcol.Start(otelcol.Settings{Binary: binary, Args: args})
	if err != nil {
		return "", err
	}
	code, err := p.Wait(ctx)
	if err != nil {
		return "", errors.Join(err, p.KillAll())
	}
	if code != 0 {
		return "", fmt.Errorf("running %s %s: exit code %d: %s", filepath.Base(binary), strings.Join(args, " "), code, strings.TrimSpace(p.Log()))
	}
	return p.Log(), nil
}

// pipeline is the part of the local configuration that all systems share.
const pipeline = `
receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
processors:
  batch: {timeout: 20ms}
exporters:
  otlp_grpc: {endpoint: %q, tls: {insecure: true}}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], processors: [batch], exporters: [otlp_grpc]}
`

const oursConfig = `
extensions:
  opamp:
    server: {ws: {endpoint: %q}}
    rollout: {trial_period: %s, apply_timeout: %[2]s}
service:
  extensions: [opamp]
`

func ours(s settings, parameters string) func(w *world) (otelcol.Settings, error) {
	return func(w *world) (otelcol.Settings, error) {
		local, err := w.write("pipeline.yaml", pipeline, w.otlp, w.sink.Endpoint())
		if err != nil {
			return otelcol.Settings{}, err
		}
		extension, err := w.write("extension.yaml", oursConfig, w.server.WSURL(), s.trial)
		if err != nil {
			return otelcol.Settings{}, err
		}
		return otelcol.Settings{Binary: s.collector, Args: []string{
			"--config=" + local,
			"--config=" + extension,
			"--config=opamp:?state_dir=" + filepath.Join(w.dir, "state") + parameters,
		}}, nil
	}
}

// The capability reports_remote_config must be on: without it the rollback is
// silently off. The timeout bootstrap_timeout keeps its default, because it is not
// only about the supervisor's own start: use_hup_config_reload waits for it too.
const supervisorConfig = `
server: {endpoint: %q}
capabilities:
  accepts_remote_config: true
  reports_remote_config: true
  reports_own_metrics: false
agent:
  executable: %q
  config_files: [%q]
  automatic_config_rollback: true
  validate_config: true
  use_hup_config_reload: %t
  config_apply_timeout: %s
storage: {directory: %q}
telemetry: {logs: {level: info}, metrics: {level: none}}
`

func supervisor(s settings, hup bool) func(w *world) (otelcol.Settings, error) {
	return func(w *world) (otelcol.Settings, error) {
		local, err := w.write("pipeline.yaml", pipeline, w.otlp, w.sink.Endpoint())
		if err != nil {
			return otelcol.Settings{}, err
		}
		executable, err := filepath.Abs(s.supervised)
		if err != nil {
			return otelcol.Settings{}, fmt.Errorf("locating %q: %w", s.supervised, err)
		}
		config, err := w.write("supervisor.yaml", supervisorConfig,
			w.server.WSURL(), executable, local, hup, s.trial, filepath.Join(w.dir, "storage"))
		if err != nil {
			return otelcol.Settings{}, err
		}
		return otelcol.Settings{Binary: s.supervisor, Args: []string{"--config=" + config}}, nil
	}
}
