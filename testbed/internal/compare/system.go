package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

const (
	// RestartDelay is how long a service manager waits before it starts a process
	// again: the default of systemd's RestartSec.
	RestartDelay = 100 * time.Millisecond
	// answerTime bounds subcommands of a Collector, the full one on a busy machine.
	answerTime = time.Minute
)

// System is one of what is compared.
type System struct {
	// Key is for flags and folders.
	Key string
	// Name is for the table.
	Name string
	// Managed means that it is a client of the OpAMP server; what is not is given
	// configurations by a file and a SIGHUP.
	Managed bool
	// prepare writes the files of a world and says what to run.
	prepare func(w *World) (otelcol.Settings, error)
}

// Keys of the systems.
const (
	Ours              = "ours"
	Guard             = "guard"
	Supervisor        = "supervisor"
	SupervisorHUP     = "supervisor-hup"
	SupervisorDefault = "supervisor-default"
	Floor             = "floor"
)

// managed are the keys of the systems that are compared unless others are wanted.
func managed() []string { return []string{Ours, Guard, Supervisor, SupervisorHUP} }

// all are the systems, in the order of the table.
func all(s Settings) []System {
	return []System{
		{Ours, "otelcol-opamp", true, ours(s, "")},
		{Guard, "otelcol-opamp with guard", true, ours(s, "&guard=true")},
		{Supervisor, "opampsupervisor", true, supervisor(s, true, false)},
		{SupervisorHUP, "opampsupervisor, `use_hup_config_reload`", true, supervisor(s, true, true)},
		{SupervisorDefault, "opampsupervisor, defaults", true, supervisor(s, false, false)},
		{Floor, "plain Collector, SIGHUP", false, plainCollector(s)},
	}
}

// Available returns the systems that are wanted and work, and why others are left
// out.
func Available(ctx context.Context, s Settings, dir string) (systems []System, leftOut []string, err error) {
	wanted := s.Systems
	if len(wanted) == 0 {
		wanted = managed()
	}
	for _, key := range wanted {
		if !slices.ContainsFunc(all(s), func(sys System) bool { return sys.Key == key }) {
			return nil, nil, fmt.Errorf("system %q is unknown", key)
		}
	}
	for _, sys := range all(s) {
		if !slices.Contains(wanted, sys.Key) {
			continue
		}
		if sys.Key == Guard {
			known, err := knowsGuard(ctx, s, dir)
			if err != nil {
				return nil, nil, err
			}
			if !known {
				leftOut = append(leftOut, fmt.Sprintf("%s: %s does not know the parameter `guard`.", sys.Name, filepath.Base(s.Collector)))
				continue
			}
		}
		if s.Copies != "" {
			if sys, err = copied(s, sys.Key); err != nil {
				return nil, nil, err
			}
		}
		systems = append(systems, sys)
	}
	if len(systems) == 0 {
		return nil, nil, errors.New("no system is left to be measured")
	}
	return systems, leftOut, nil
}

// copied is the system with executables of its own, in a folder of Settings.Copies
// with the name of the key. Those that are there already are used.
func copied(s Settings, key string) (System, error) {
	dir := filepath.Join(s.Copies, key)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return System{}, fmt.Errorf("making a folder: %w", err)
	}
	paths := []*string{&s.Supervised, &s.Supervisor}
	if key == Ours || key == Guard || key == Floor {
		paths = []*string{&s.Collector}
	}
	for _, path := range paths {
		to := filepath.Join(dir, filepath.Base(*path))
		if err := copyFile(*path, to); err != nil {
			return System{}, err
		}
		*path = to
	}
	systems := all(s)
	return systems[slices.IndexFunc(systems, func(sys System) bool { return sys.Key == key })], nil
}

// copyFile copies an executable, unless it was copied before.
func copyFile(from, to string) (err error) {
	in, err := os.Open(from) //nolint:gosec // what is to be measured
	if err != nil {
		return fmt.Errorf("copying an executable: %w", err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700) //nolint:gosec // it is to be run
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("copying an executable: %w", err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copying an executable: %w", err)
	}
	return nil
}

// knowsGuard reports whether the Collector accepts the parameter.
func knowsGuard(ctx context.Context, s Settings, dir string) (bool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("making a folder: %w", err)
	}
	w := &World{dir: dir}
	local, err := w.write("probe.yaml", pipeline, "127.0.0.1:0", "127.0.0.1:0") // never listened on
	if err != nil {
		return false, err
	}
	_, err = ask(ctx, s.Collector, "validate", "--config="+local, "--config=opamp:?state_dir="+filepath.Join(dir, "probe")+"&guard=true")
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

func ours(s Settings, parameters string) func(w *World) (otelcol.Settings, error) {
	return func(w *World) (otelcol.Settings, error) {
		local, err := w.write("pipeline.yaml", pipeline, w.otlp, w.sink.Endpoint())
		if err != nil {
			return otelcol.Settings{}, err
		}
		extension, err := w.write("extension.yaml", oursConfig, w.server.WSURL(), s.Trial)
		if err != nil {
			return otelcol.Settings{}, err
		}
		return otelcol.Settings{Binary: s.Collector, Args: []string{
			"--config=" + local,
			"--config=" + extension,
			"--config=opamp:?state_dir=" + filepath.Join(w.dir, "state") + parameters,
			gates(s),
		}}, nil
	}
}

// gates is the argument that turns feature gates on; without any it does nothing.
func gates(s Settings) string { return "--feature-gates=" + s.Gates }

// remoteName is the file that the plain Collector has instead of a server.
const remoteName = "remote.yaml"

// plainCollector is this project's Collector without its two components.
func plainCollector(s Settings) func(w *World) (otelcol.Settings, error) {
	return func(w *World) (otelcol.Settings, error) {
		local, err := w.write("pipeline.yaml", pipeline, w.otlp, w.sink.Endpoint())
		if err != nil {
			return otelcol.Settings{}, err
		}
		remote, err := w.write(remoteName, "{}\n")
		if err != nil {
			return otelcol.Settings{}, err
		}
		return otelcol.Settings{Binary: s.Collector, Args: []string{"--config=" + local, "--config=" + remote, gates(s)}}, nil
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
  args: [%q]
  config_files: [%q]
  automatic_config_rollback: %t
  validate_config: %[5]t
  use_hup_config_reload: %[6]t
  config_apply_timeout: %[7]s
storage: {directory: %[8]q}
telemetry: {logs: {level: info}, metrics: {level: none}}
`

func supervisor(s Settings, safe, hup bool) func(w *World) (otelcol.Settings, error) {
	return func(w *World) (otelcol.Settings, error) {
		local, err := w.write("pipeline.yaml", pipeline, w.otlp, w.sink.Endpoint())
		if err != nil {
			return otelcol.Settings{}, err
		}
		executable, err := filepath.Abs(s.Supervised)
		if err != nil {
			return otelcol.Settings{}, fmt.Errorf("locating %q: %w", s.Supervised, err)
		}
		config, err := w.write("supervisor.yaml", supervisorConfig,
			w.server.WSURL(), executable, gates(s), local, safe, hup, s.Trial, filepath.Join(w.dir, "storage"))
		if err != nil {
			return otelcol.Settings{}, err
		}
		return otelcol.Settings{Binary: s.Supervisor, Args: []string{"--config=" + config}}, nil
	}
}
