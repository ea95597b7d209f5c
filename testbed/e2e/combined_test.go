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
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// inTrial waits until a candidate is in trial.
func (c *collector) inTrial(fromLog int) {
	c.w.t.Helper()
	_, err := c.WaitLogAfter(patiently(c.w.t), fromLog, `"to": "trial"`)
	require.NoError(c.w.t, err)
}

// A FatalError ends the Collector, and then a component hangs in its Shutdown: the
// rollback takes place all the same.
func TestFatalErrorAndThenAHangingShutdown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: "{drain_timeout: 2s, trial_period: 3s}"})
	c := w.start(w.args())
	agent := w.managed()
	w.load(w.receiver)
	w.apply(agent, marking("good"))
	from := c.LogMark()
	control := filepath.Join(w.dir, "control")
	hash := w.offer(withFault("bad", fmt.Sprintf("control: %q, hang_shutdown: true, message: no account", control)))
	c.inTrial(from)
	require.NoError(t, os.WriteFile(control, []byte("fatal_error"), 0o600))
	after := w.await(agent, hash, failed)
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "no account")
	w.seenFromNow("good")
	c.requireAlive()
}

// A FatalError that comes after SIGTERM leaves the Collector deadlocked, since nobody
// listens for it any more: the process ends all the same, before Kubernetes kills it,
// whatever drain_timeout says.
func TestFatalErrorAfterSIGTERM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	c := w.start(w.args())
	agent := w.managed()
	control := filepath.Join(w.dir, "control")
	// The receiver is stopped first.
	w.apply(agent, strings.Replace(withFault("fine so far", fmt.Sprintf("control: %q", control)),
		"traces: {", "traces: {receivers: [otlp, fault], ", 1)+"receivers: {fault: {hang_shutdown: true}}\n")
	from := c.LogMark()
	require.NoError(t, c.Signal(syscall.SIGTERM))
	_, err := c.WaitLogAfter(patiently(t), from, "Starting shutdown")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(control, []byte("fatal_error"), 0o600))
	code, ended := c.endedWithin(30 * time.Second) // of Kubernetes
	require.True(t, ended)
	assert.Equal(t, 128+int(syscall.SIGTERM), code)
	c.ended = true
}

// A local file breaks while a candidate is in trial, and somebody asks for a reload:
// safe mode, no verdict, and the candidate has its trial when the file is repaired.
// The order of the layers makes no difference.
func TestLocalFileBreaksInTrial(t *testing.T) {
	t.Parallel()
	for name, remoteFirst := range map[string]bool{"remote last": false, "remote first": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{rollout: longTrial()})
			args := w.args()
			if remoteFirst {
				args = append([]string{args[len(args)-1]}, args[:len(args)-1]...)
			}
			c := w.start(args)
			agent := w.managed()
			from := c.LogMark()
			// What a local layer after it would not override.
			hash := w.offer("exporters: {nop: {}}\nservice: {pipelines: {metrics: {receivers: [otlp], exporters: [nop]}}}")
			c.inTrial(from)
			w.layer("pipeline.yaml", "receivers: [")
			require.NoError(t, c.Signal(syscall.SIGHUP))
			ill, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
				return strings.Contains(a.Health.GetLastError(), "safe mode")
			})
			require.NoError(t, err)
			assert.NotEqual(t, failed, ill.RemoteConfigStatus.Status, ill.RemoteConfigStatus.ErrorMessage)
			w.layer("pipeline.yaml", w.pipeline())
			w.await(agent, hash, applied)
			w.awaitEffective(agent, "metrics:")
			c.requireAlive()
		})
	}
}

// Somebody removes the extension and leaves the opamp: URI: the Collector runs on,
// unmanaged.
func TestExtensionIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: "{apply_timeout: 1s}"})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	w.apply(agent, marking("good"))
	c.stop()
	w.layer("extension.yaml", "service: {telemetry: {metrics: {level: none}}}")
	w.layer("rollout.yaml", "{}")
	c = w.start(args)
	w.load(w.receiver)
	w.seenFromNow("good")
	_, ended := c.endedWithin(3 * quiet) // thrice apply_timeout
	assert.False(t, ended)
	assert.Zero(t, c.count(logReplaced))
}

// Nothing can be saved, and what is local does not start: the pauses between two
// starts hold all the same.
func TestNoHotLoopWithoutAFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args()
	c := w.start(args)
	w.managed()
	c.stop()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", w.receiver)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	c = w.start(args, failpoints+"statedir.*=error")
	_, ended := c.endedWithin(5 * quiet)
	assert.False(t, ended)
	assert.Less(t, c.count(logReplacing), 5, "re-executions in five seconds")
	assert.Positive(t, c.count(logReplacing))
}

// Two agents in one process: what the one's candidate does is no verdict on the
// other's.
func TestTwoAgentsOneVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	period := longTrial()
	extension := strings.NewReplacer("opamp:", "opamp/other:", "[opamp]", "[opamp, opamp/other]",
		fmt.Sprint("trial_period: ", trialPeriod), strings.Trim(period, "{}")).Replace(w.extension())
	args := append(w.args(w.layer("other.yaml", extension)), "--config=opamp:other?state_dir="+w.state)
	c := w.start(args)
	eventually(t, func() bool {
		n := 0
		for _, a := range w.server.Agents() {
			if a.Connected && a.Health.GetHealthy() {
				n++
			}
		}
		return n == 2
	}, "two agents must connect")
	var one, other opampserver.Agent
	for _, a := range w.server.Agents() {
		id, err := os.ReadFile(filepath.Join(w.state, "opamp", "instance_uid"))
		require.NoError(t, err)
		if strings.Contains(string(id), a.UID) {
			one = a
		} else {
			other = a
		}
	}
	from := c.LogMark()
	good := w.server.Offer(other.UID, opampserver.YAML(marking("good")))
	c.inTrial(from)
	bad := w.server.Offer(one.UID, opampserver.YAML(withFault("bad", "fail_start: true")))
	w.await(one, bad, failed)
	w.await(other, good, applied)
	w.load(w.receiver)
	w.seen("good")
	c.requireAlive()
}

// With the gate for partial reloads the host first compares: a retiring service that
// then hangs is no verdict on the candidate.
func TestRetiringServiceHangsAfterAComparison(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: "{drain_timeout: 3s, apply_timeout: 2s}"})
	c := w.start(append(w.args(), "--feature-gates=service.partialReload,service.partialReloadReceivers"))
	agent := w.managed()
	w.apply(agent, withFault("first", "hang_shutdown: true"))
	w.apply(agent, marking("second"))
	w.load(w.receiver)
	w.seen("second")
	c.requireAlive()
}

// The server's restart command replaces the process; a candidate in trial has its
// trial again.
func TestRestartCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: longTrial()})
	allow := w.layer("restart.yaml", "extensions: {opamp: {capabilities: {accepts_restart_command: true}}}")
	c := w.start(append(w.args(allow), "--feature-gates=extension.opampextension.RemoteRestarts"))
	agent := w.managed()
	l := w.load(w.receiver)
	l.flows()
	for _, when := range []string{"idle", "trial"} {
		fromLog, from := c.LogMark(), w.server.Mark()
		var hash []byte
		if when == "trial" {
			hash = w.offer(marking("good"))
			c.inTrial(fromLog)
		}
		require.NoError(t, w.server.Send(agent.UID, restartCommand()))
		_, err := c.WaitLogAfter(patiently(t), fromLog, logReplaced)
		require.NoError(t, err, when)
		again, err := w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool {
			return m.Received.GetAgentDescription() != nil && m.Received.GetSequenceNum() == 0
		})
		require.NoError(t, err)
		assert.Equal(t, agent.UID, again.UID)
		if hash != nil {
			w.await(agent, hash, applied)
			w.seen("good")
		}
	}
	c.requireAlive()
	l.requireNothingLost()
}

// The server gives the agent another instance UID: it is announced at once, and
// kept.
func TestInstanceUIDOfTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	const given = "01900000-0000-7000-8000-000000000001"
	require.NoError(t, w.server.Send(agent.UID, identification(given)))
	after, err := w.server.WaitFor(patiently(t), given, func(a opampserver.Agent) bool {
		return a.Identifying["service.instance.id"] == given
	})
	require.NoError(t, err)
	w.apply(after, marking("good")) // a reload
	c.stop()
	from := w.server.Mark()
	c = w.start(args)
	first, err := w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool { return m.Received != nil })
	require.NoError(t, err)
	assert.Equal(t, given, first.UID)
	require.NoError(t, c.WaitLog(patiently(t), "Everything is ready"))
}
