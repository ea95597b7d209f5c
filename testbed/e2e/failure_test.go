//go:build unix

package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// withFault is a configuration that marks spans and has an exporter that fails.
func withFault(mark, fault string) string {
	return fmt.Sprintf(`
processors:
  attributes/e2e: {actions: [{key: %s, value: %q, action: upsert}]}
exporters:
  fault: {%s}
service: {pipelines: {traces: {processors: [attributes/e2e, batch], exporters: [otlp_grpc, fault]}}}
`, markKey, mark, fault)
}

// requireNothingDone checks that one more offer of what was decided on is neither
// tried nor answered.
func (w *world) requireNothingDone(c *collector, agent opampserver.Agent, offer opampserver.Offer) {
	w.t.Helper()
	from, reloads, checks, starts := w.server.Mark(), c.count(logReload), c.count(logChecking), c.count(logReplaced)
	require.NoError(w.t, w.server.OfferOnce(agent.UID, offer))
	w.requireSilence(from, "what was decided on is not tried again", reportsStatus)
	assert.Equal(w.t, reloads, c.count(logReload), "reloads")
	assert.Equal(w.t, checks, c.count(logChecking), "offers taken up")
	assert.Equal(w.t, starts, c.count(logReplaced), "re-executions")
}

// tellOutage ends the load and tells how long no request was accepted.
func (l *traffic) tellOutage() {
	l.w.t.Helper()
	r := l.Stop(patiently(l.w.t))
	l.w.t.Logf("outage under load: %s, %d of %d requests refused", r.LongestGap, len(r.Refused), r.Sent)
}

// A candidate that fails is rolled back in the same process, whatever the way it
// fails; the server is told the truth, and an identical offer is not tried again.
func TestFailureIsRolledBackInTheSameProcess(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		offer func(w *world) string
		want  string
	}{
		"a component does not start": {
			func(*world) string { return withFault("bad", "fail_start: true, message: no such account") },
			"exporter fault in pipeline traces: no such account",
		},
		"a port is taken": {
			func(w *world) string {
				l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
				require.NoError(w.t, err)
				w.t.Cleanup(func() { assert.NoError(w.t, l.Close()) })
				return fmt.Sprintf("receivers: {otlp: {protocols: {http: {endpoint: %q}}}}", l.Addr())
			},
			"address already in use",
		},
		"an extension cannot be created": {
			func(*world) string {
				return "extensions: {fault: {fail_create: true}}\nservice: {extensions: [fault]}"
			},
			"could not create what it configures",
		},
		"an extension does not start": {
			func(*world) string {
				return "extensions: {fault: {fail_start: true, message: no such file}}\nservice: {extensions: [fault]}"
			},
			"extension fault: no such file",
		},
		"an extension is not content with what is ready": {
			func(*world) string { return "extensions: {fault: {ready_error: true}}\nservice: {extensions: [fault]}" },
			"ended while",
		},
		"the main goroutine panics": {
			func(*world) string { return withFault("bad", "panic_start: true") },
			"the Collector panicked in github.com/otelcol-opamp/otelcol-opamp/testbed/internal/fault",
		},
		"a FatalError before Ready": {
			func(*world) string { return withFault("bad", "in_start: fatal_error, message: not in a cluster") },
			"not in a cluster",
		},
		"a FatalError in the trial": {
			func(*world) string {
				return withFault("bad", "after: 100ms, then: fatal_error, message: out of the cluster")
			},
			"out of the cluster",
		},
		"a component hangs in Start": {
			func(*world) string { return withFault("bad", "hang_start: true") },
			"not ready within apply_timeout",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{rollout: "{trial_period: 2s, apply_timeout: 10s}"})
			c := w.start(w.args())
			agent := w.managed()
			l := w.load(w.receiver)
			good := w.apply(agent, marking("good"))
			offer := opampserver.YAML(tt.offer(w))
			from := w.server.Mark()
			hash := w.server.Offer("", offer)
			after := w.await(agent, hash, failed)
			w.requireVerdict(from, hash, failed)
			assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, tt.want)
			assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, fmt.Sprintf("; running last known good %.8x", good))
			w.seenFromNow("good")
			well, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
				return a.Connected && a.Health.GetHealthy() && strings.Contains(a.EffectiveConfig[""], "value: good")
			})
			require.NoError(t, err)
			assert.Equal(t, agent.UID, well.UID)
			c.requireAlive() // the same process: nobody else would have started one
			c.requireNoChildren()

			w.requireNothingDone(c, agent, offer)
			l.tellOutage()
			w.apply(agent, marking("next"))
		})
	}
}

// A retiring configuration that does not stop is no verdict on the candidate: it
// gets its trial in a process of its own.
func TestRetiringConfigurationThatDoesNotStopIsNoVerdict(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"hang_shutdown: true", "fail_shutdown: true"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{rollout: "{drain_timeout: 3s}"})
			c := w.start(w.args())
			agent := w.managed()
			l := w.load(w.receiver)
			w.apply(agent, withFault("first", fault))
			from := w.server.Mark()
			offer := opampserver.YAML(marking("second"))
			hash := w.server.Offer("", offer)
			w.await(agent, hash, applied)
			w.requireVerdict(from, hash, applied)
			w.seen("second")
			c.requireAlive()
			assert.Equal(t, 1, c.count(logReplaced), "re-executions")
			w.requireNothingDone(c, agent, offer)
			l.tellOutage()
		})
	}
}

// The process dies in the trial. The next one runs the last known good and says
// what the former one died of.
func TestDeathInTrialIsExplained(t *testing.T) {
	t.Parallel()
	for action, want := range map[string]string{
		"panic": "panic: the disk is on fire",
		"segv":  "SIGSEGV",
		"exit":  "the process ended while this configuration was in trial",
	} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{rollout: longTrial()})
			args := w.args()
			c := w.start(args)
			agent := w.managed()
			l := w.load(w.receiver)
			w.apply(agent, marking("good"))
			from := w.server.Mark()
			offer := opampserver.YAML(withFault("bad", "after: 200ms, then: "+action+", message: the disk is on fire"))
			hash := w.server.Offer("", offer)
			_, err := c.Wait(patiently(t))
			require.NoError(t, err)
			c.ended = true

			c = w.start(args) // at once, unlike a service manager
			after := w.await(agent, hash, failed)
			w.requireVerdict(from, hash, failed)
			assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, want)
			assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "; running last known good ")
			w.seenFromNow("good")
			w.requireNothingDone(c, agent, offer)
			l.tellOutage()
		})
	}
}

// A FatalError outside a trial ends the process, with a code that makes a
// service manager start it again.
func TestFatalErrorOutsideATrialEndsWithAnErrorCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	control := filepath.Join(w.dir, "control")
	c := w.start(w.args())
	agent := w.managed()
	w.apply(agent, withFault("good", fmt.Sprintf("control: %q", control)))
	require.NoError(t, os.WriteFile(control, []byte("fatal_error"), 0o600))
	code, err := c.Wait(patiently(t))
	require.NoError(t, err)
	c.ended = true
	assert.Equal(t, 1, code)
}

// When not even the local configuration can be read, the process goes on as
// nothing but the agent: it says why, and comes back when the file is repaired.
//
// Conformance: E11
func TestSafeModeWhenTheLocalConfigurationIsBroken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	w.load(w.receiver)
	w.apply(agent, marking("good"))
	w.layer("pipeline.yaml", "receivers: [")
	require.NoError(t, c.Signal(syscall.SIGHUP))
	ill, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		return !a.Health.GetHealthy() && strings.Contains(a.Health.GetLastError(), "safe mode")
	})
	require.NoError(t, err)
	assert.Contains(t, ill.Health.GetStatus(), "yaml: line 1")
	c.requireAlive()
	c.stop()

	// A start with the broken file goes the same way, by itself.
	from := w.server.Mark()
	c = w.start(args)
	_, err = w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool {
		return strings.Contains(m.Received.GetHealth().GetLastError(), "safe mode")
	})
	require.NoError(t, err)
	w.layer("pipeline.yaml", w.pipeline())
	w.seenFromNow("good")
	well, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		return a.Health.GetHealthy() && a.RemoteConfigStatus.Status == applied
	})
	require.NoError(t, err)
	assert.Equal(t, agent.UID, well.UID)
	c.requireAlive()
}

// The last known good no longer starts: after one more try the process goes down
// the ladder, and says on which rung it is.
func TestLastKnownGoodThatNoLongerStarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	addr := freeAddr(t)
	w.apply(agent, marking("earlier"))
	hash := w.apply(agent, marking("latest")+fmt.Sprintf("\nreceivers: {otlp: {protocols: {http: {endpoint: %q}}}}", addr))
	c.stop()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	w.load(w.receiver)
	c = w.start(args)
	below, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		return a.Health.GetHealthy() && strings.Contains(a.RemoteConfigStatus.ErrorMessage, "; running earlier known good")
	})
	require.NoError(t, err)
	assert.Equal(t, hash, below.RemoteConfigStatus.Hash)
	assert.Contains(t, below.RemoteConfigStatus.ErrorMessage, "ended while it was starting")
	w.seenFromNow("earlier")
	c.requireAlive()
}

// Being told to end ends the process also while a component hangs.
func TestStopWhileAComponentHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	c := w.start(w.args())
	agent := w.managed()
	w.apply(agent, marking("good"))
	from := c.LogMark()
	w.offer(withFault("bad", "hang_start: true"))
	_, err := c.WaitLogAfter(patiently(t), from, "Starting extensions...")
	require.NoError(t, err)
	require.Contains(t, []int{0, 128 + int(syscall.SIGTERM)}, c.terminate())
}
