//go:build linux

package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

const (
	supervisorVariable = "OTELCOL_OPAMP_SUPERVISOR"
	defaultSupervisor  = "../../bin/opampsupervisor"

	modelsPage = "../../docs/deployment-models.md"

	// orphanLook replaces the 5 s of the page: the tests wait for it.
	orphanLook = 200 * time.Millisecond
	// supervisorLook is the time between two looks at how many Collectors run: a
	// Collector that stops or starts takes longer.
	supervisorLook = 10 * time.Millisecond

	logOff      = "Remote configuration is off"
	logOffWhy   = "the extension has a `ppid`"
	logOrphan   = "This process is an orphan and ends"
	logComplete = "Shutdown complete"
	logNoGuard  = "No guard"

	logSupervisor = "Supervisor starting"
	logNoNop      = `'receivers' unknown type: "nop"`
	// supervisorStarts is how often the supervisor is started: one in ten starts
	// fails on a busy machine.
	supervisorStarts = 5
)

// supervisorBinary is contrib's supervisor. It skips the test without one.
func supervisorBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv(supervisorVariable)
	required := path != ""
	if !required {
		path = defaultSupervisor
	}
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil && !required {
		t.Skipf("contrib's supervisor is missing (run `make bin/opampsupervisor`, or set %s): %v", supervisorVariable, err)
	}
	require.FileExists(t, path, supervisorVariable)
	return path
}

// supervisor is contrib's supervisor with our Collector.
type supervisor struct {
	*otelcol.Process
	w       *world
	storage string
	// applyTimeout is how long it waits for a configuration to be healthy; it
	// reports none as applied before.
	applyTimeout time.Duration
	ended        bool
	// most is how many Collectors were seen at a time; the watch for it is ended by
	// unwatch.
	most    atomic.Int32
	unwatch func()
}

// supervise starts a supervisor as the page says. The arguments are for the
// Collector.
func (w *world) supervise(hup bool, args ...string) *supervisor {
	w.t.Helper()
	executable, err := binary()
	require.NoError(w.t, err)
	s := &supervisor{w: w, storage: filepath.Join(w.dir, "storage"), applyTimeout: 3 * time.Second}
	if slow() {
		s.applyTimeout *= 5
	}
	local := filepath.Join(w.dir, "supervised.yaml")
	require.NoError(w.t, os.WriteFile(local, []byte(w.modelBlock("supervised")), 0o600))
	// The supervisor first starts a Collector without the local files, whose own
	// metrics would all be served at the same port.
	args = append([]string{"--config=yaml:service::telemetry::metrics::level: none"}, args...)
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = strconv.Quote(arg)
	}
	config := filepath.Join(w.dir, "supervisor.yaml")
	require.NoError(w.t, os.WriteFile(config, []byte(block(w.t, modelsPage, "supervisor", map[string]string{
		"wss://opamp.example.com/v1/opamp":  w.endpoint,
		"/usr/bin/otelcol-opamp\n":          executable + "\n  args: [" + strings.Join(quoted, ", ") + "]\n",
		"/etc/otelcol-opamp/config.yaml":    local,
		"use_hup_config_reload: true":       fmt.Sprintf("use_hup_config_reload: %t", hup),
		"config_apply_timeout: 5s":          fmt.Sprintf("config_apply_timeout: %s", s.applyTimeout),
		"bootstrap_timeout: 3s":             fmt.Sprintf("bootstrap_timeout: %s", patience),
		"orphan_detection_interval: 5s":     fmt.Sprintf("orphan_detection_interval: %s", orphanLook),
		"/var/lib/otelcol-opamp-supervisor": s.storage,
	})+"telemetry: {metrics: {level: none}}\n"), 0o600))
	settings := otelcol.Settings{Binary: supervisorBinary(w.t), Args: []string{"--config=" + config}}
	w.t.Cleanup(func() {
		if s.Process == nil {
			return
		}
		if s.unwatch != nil {
			s.unwatch()
		}
		if !s.ended {
			assert.NoError(w.t, s.KillAll())
		}
		if w.t.Failed() {
			w.t.Logf("the log of the supervisor:\n%s\nthe log of the last Collector:\n%s", s.Log(), s.log())
		}
	})
	for range supervisorStarts {
		s.Process, err = otelcol.Start(settings)
		require.NoError(w.t, err)
		if s.knowsTheCollector() {
			s.watch()
			return s
		}
		w.t.Log("the supervisor did not learn which gates the Collector has: starting it again")
		require.NoError(w.t, s.KillAll())
		_, err = s.Wait(patiently(w.t))
		require.NoError(w.t, err)
	}
	require.Fail(w.t, "the supervisor never learned which gates the Collector has")
	return nil
}

// knowsTheCollector waits until the supervisor has run the Collector for the first
// time and reports whether it could. It reads the Collector's list of gates in a
// race with the end of that process; without service.AllowNoPipelines in the list
// it runs a receiver `nop`, which the small distribution does not have.
func (s *supervisor) knowsTheCollector() bool {
	s.w.t.Helper()
	knows := false
	eventually(s.w.t, func() bool {
		knows = strings.Contains(s.Log(), logSupervisor)
		return knows || strings.Contains(s.log(), logNoNop)
	}, "the supervisor must run the Collector")
	return knows
}

// modelBlock is a block of the page for a Collector, with the addresses of this
// world.
func (w *world) modelBlock(name string) string {
	w.t.Helper()
	replace := map[string]string{
		"127.0.0.1:4317":                     w.receiver,
		"endpoint: backend.example.com:4317": fmt.Sprintf("endpoint: %s\n    tls: {insecure: true}", w.sink.Endpoint()),
	}
	if name == "in-process" {
		replace["wss://opamp.example.com/v1/opamp"] = w.endpoint
	}
	return block(w.t, modelsPage, name, replace)
}

// pageMarking is marking for the page's Collectors, which have no processor.
func pageMarking(value string) string {
	return fmt.Sprintf(`
processors: {attributes/e2e: {actions: [{key: %s, value: %q, action: upsert}]}}
service: {pipelines: {traces: {processors: [attributes/e2e]}}}`, markKey, value)
}

// watch counts the Collectors that run at a time.
func (s *supervisor) watch() {
	done := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		look := time.NewTicker(supervisorLook)
		defer look.Stop()
		for {
			select {
			case <-done:
				return
			case <-look.C:
				pids := s.collectors()
				if len(pids) > 1 {
					// Processes are read one by one: one may have ended before the
					// next was started. Those that are still there ran together.
					again := s.collectors()
					pids = slices.DeleteFunc(pids, func(pid int) bool { return !slices.Contains(again, pid) })
				}
				s.most.Store(max(s.most.Load(), int32(len(pids))))
			}
		}
	})
	s.unwatch = sync.OnceFunc(func() { close(done); work.Wait() })
}

// collectors are the children of the supervisor that run a configuration. (Their
// own children are none: the runtime of Go makes one for an instant, to learn what
// the kernel can do.)
func (s *supervisor) collectors() []int {
	children, err := s.Children()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(children, func(pid int) bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty for a zombie
		return err != nil || bytes.Contains(line, []byte("\x00validate\x00")) || !bytes.Contains(line, []byte("effective.yaml"))
	})
}

// collector returns the one Collector that runs.
func (s *supervisor) collector() int {
	s.w.t.Helper()
	var pid int
	eventually(s.w.t, func() bool {
		pids := s.collectors()
		if len(pids) != 1 {
			return false
		}
		pid = pids[0]
		return true
	}, "one Collector must run")
	return pid
}

// log is what the last Collector has logged.
func (s *supervisor) log() string {
	text, _ := os.ReadFile(filepath.Join(s.storage, "agent.log")) // a missing one has nothing
	return string(text)
}

// restarted waits until a Collector with another PID runs, and returns it.
func (s *supervisor) restarted(former int) int {
	s.w.t.Helper()
	eventually(s.w.t, func() bool {
		pids := s.collectors()
		return len(pids) == 1 && pids[0] != former
	}, "another Collector must run")
	return s.collector()
}

// requireNothingLeft waits until no process is left, and none was too many.
func (s *supervisor) requireNothingLeft() {
	s.w.t.Helper()
	eventually(s.w.t, func() bool {
		left, err := s.Leftovers()
		return err == nil && len(left) == 0
	}, "no process must be left")
	s.unwatch()
	assert.EqualValues(s.w.t, 1, s.most.Load(), "Collectors at a time")
	assert.Contains(s.w.t, s.log(), logComplete, "the Collector must end in order")
	assert.Empty(s.w.t, races(lines(s.log())))
	s.ended = true
}

func lines(text string) []otelcol.Line {
	var all []otelcol.Line
	for line := range strings.Lines(text) {
		all = append(all, otelcol.Line{Text: strings.TrimSuffix(line, "\n")})
	}
	return all
}

// supervised waits until the server knows, by way of the supervisor, what a
// Collector runs, and that it is well.
func (w *world) supervised() opampserver.Agent {
	w.t.Helper()
	agent, err := w.server.WaitFor(patiently(w.t), "", func(a opampserver.Agent) bool {
		return a.Connected && a.Health.GetHealthy() && a.Health.GetComponentHealthMap()["pipeline:traces"].GetHealthy() && a.AvailableComponents.GetComponents() != nil
	})
	require.NoError(w.t, err)
	return agent
}

// broken are configurations that do not work, by how they fail.
func broken() map[string]string {
	const uses = `
service: {pipelines: {traces: {receivers: [otlp, fault]}}}`
	return map[string]string{
		"an error in Start":      "receivers: {fault: {fail_start: true}}" + uses,
		"a FatalError in Start":  "receivers: {fault: {in_start: fatal_error}}" + uses, // leaves the host deadlocked
		"a panic in a goroutine": "receivers: {fault: {then: panic}}" + uses,
	}
}

// Our Collector does for contrib's supervisor what contrib's own does.
func TestSupervised(t *testing.T) {
	t.Parallel()
	supervisorBinary(t)
	for name, hup := range map[string]bool{"restarts": false, "reloads": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			s := w.supervise(hup)
			agent := w.supervised()
			l := w.load(w.receiver)
			l.flows()

			// What is known of the Collector.
			assert.Equal(t, "otelcol-opamp-testbed", agent.Identifying["service.name"])
			assert.Equal(t, agent.UID, agent.Identifying["service.instance.id"])
			assert.Contains(t, agent.AvailableComponents.GetComponents()["receivers"].GetSubComponentMap(), "otlp")
			assert.NotZero(t, agent.Health.GetStartTimeUnixNano())
			assert.Contains(t, agent.Health.GetComponentHealthMap()["pipeline:traces"].GetComponentHealthMap(), "receiver:otlp")
			w.awaitEffective(agent, w.receiver)
			assert.Contains(t, s.log(), logOff)
			assert.Contains(t, s.log(), logOffWhy)

			// A change.
			first := s.collector()
			w.apply(agent, pageMarking("one"))
			w.seen("one")
			w.awaitEffective(agent, "value: one")
			assert.Equal(t, hup, first == s.collector(), "the same process")

			// What is refused before it is run.
			running := s.collector()
			after := w.await(agent, w.offer("exporters: {unknown: {}}"), failed)
			assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "unknown")
			assert.Equal(t, running, s.collector())
			w.seenFromNow("one")

			// What fails when it is run.
			for how, bad := range broken() {
				mark, was := w.server.Mark(), s.collector()
				hash := w.offer(bad)
				message, err := w.server.WaitMessage(patiently(t), mark, func(m opampserver.Message) bool {
					r := m.Received.GetRemoteConfigStatus()
					return bytes.Equal(r.GetLastRemoteConfigHash(), hash) && r.GetStatus() == failed
				})
				require.NoError(t, err, how)
				text := message.Received.GetRemoteConfigStatus().GetErrorMessage()
				assert.Contains(t, text, "exited unexpectedly", how)
				assert.Contains(t, text, "fault", "%s: the reason", how)
				s.restarted(was)
				w.seenFromNow("one")
				agent = w.supervised()
			}
			w.apply(agent, pageMarking("two"))
			w.seen("two")
			w.supervised()

			// The end of the process, by command and by accident.
			former := s.collector()
			require.NoError(t, w.server.Send(agent.UID, &protobufs.ServerToAgent{
				Command: &protobufs.ServerToAgentCommand{Type: protobufs.CommandType_CommandType_Restart},
			}))
			former = s.restarted(former)
			w.seenFromNow("two")
			require.NoError(t, syscall.Kill(former, syscall.SIGKILL))
			s.restarted(former)
			w.seenFromNow("two")
			w.supervised()

			// The end of the supervisor.
			require.NoError(t, s.Stop(cleanupContext(t)))
			s.requireNothingLeft()
			s = w.supervise(hup)
			w.seenFromNow("two")
			assert.Len(t, w.server.Agents(), 1)
			w.supervised()
			require.NoError(t, s.Kill())
			s.requireNothingLeft()
			assert.Contains(t, s.log(), logOrphan)
		})
	}
}

// A Collector with a supervisor takes no remote configuration of its own, and does
// not run one that it took before.
func TestSupervisedIgnoresItsOwnRemoteConfig(t *testing.T) {
	t.Parallel()
	supervisorBinary(t)
	w := newWorld(t, options{})
	c := w.start(w.args())
	w.apply(w.managed(), pageMarking("own"))
	w.load(w.receiver)
	w.seen("own")
	c.stop()
	w.server.Withdraw("")
	before := files(t, w.state)

	s := w.supervise(true, "--config=opamp:?guard=true&state_dir="+w.state)
	agent := w.supervised()
	assert.Contains(t, s.log(), logOff)
	assert.Contains(t, s.log(), logOffWhy)
	assert.Contains(t, s.log(), logNoGuard)
	w.apply(agent, pageMarking("supervisor's"))
	w.seen("supervisor's")
	assert.NotContains(t, w.agentOf(agent).EffectiveConfig[""], "value: own")
	w.await(agent, w.offer("receivers: {fault: {fail_start: true}}\nservice: {pipelines: {traces: {receivers: [otlp, fault]}}}"), failed)
	w.seenFromNow("supervisor's")
	assert.Equal(t, before, files(t, w.state), "the state folder")
	w.supervised()
	require.NoError(t, s.Stop(cleanupContext(t)))
	s.requireNothingLeft()
}

// agentOf returns what is known of an agent now.
func (w *world) agentOf(agent opampserver.Agent) opampserver.Agent {
	w.t.Helper()
	a, ok := w.server.Agent(agent.UID)
	require.True(w.t, ok)
	return a
}

// The other blocks of the page do what it says.
func TestDeploymentModels(t *testing.T) {
	t.Parallel()
	for name, uri := range map[string]string{"in-process": "--config=opamp:?state_dir=", "in-process with guard": "--config=opamp:?guard=true&state_dir="} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			c := w.start([]string{
				w.layer("config.yaml", w.modelBlock("in-process")),
				w.layer("test.yaml", "service: {telemetry: {metrics: {level: none}}}"),
				uri + w.state,
			})
			agent := w.managed()
			w.load(w.receiver)
			w.apply(agent, pageMarking("page"))
			w.seen("page")
			children, err := c.Children()
			require.NoError(t, err)
			assert.Len(t, children, strings.Count(uri, "guard"))
		})
	}
}
