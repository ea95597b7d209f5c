//go:build unix

package e2e_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const hanging = `
exporters: {fault: {hang_create: true}}
service: {pipelines: {traces: {exporters: [otlp_grpc, fault]}}}`

// A process that is told to end does not wait for a dry run, and takes it along.
func TestStopDuringTheDryRun(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*collector){
		"in order": (*collector).stop,
		"killed":   (*collector).kill,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{}) // with much time for the dry run
			args := w.args()
			c := w.start(args)
			agent := w.managed()
			w.offer(hanging)
			eventually(t, func() bool {
				children, err := c.Children()
				require.NoError(t, err)
				return len(children) == 1
			}, "the dry run must be under way")
			begin := time.Now()
			end(c) // checks that nothing is left
			assert.Less(t, time.Since(begin), 10*time.Second)

			// Nothing was found out about the offer, so it is not held against it, and
			// the next process looks at it again.
			w.server.Withdraw("")
			from := w.server.Mark()
			c = w.start(args)
			first, err := w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool { return m.Received != nil })
			require.NoError(t, err)
			assert.Equal(t, agent.UID, first.UID)
			assert.NotEqual(t, failed, first.Received.GetRemoteConfigStatus().GetStatus())
			w.apply(agent, marking("candidate"))
			c.requireAlive()
		})
	}
}

// Whenever in its start a process is told to end, it ends soon: in order if it
// came so far, or as the signal would have ended it.
func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.offer(marking("candidate")) // so that there is something to do
	args := w.args()
	const step, steps = 4 * time.Millisecond, 40 // a start takes some 50 ms
	scale := time.Duration(1)
	if slow() {
		scale = 20
	}
	for i := range steps {
		c := w.start(args)
		after := time.Duration(i) * step * scale
		<-time.After(after)
		begin := time.Now()
		require.Contains(t, []int{0, 128 + int(syscall.SIGTERM)}, c.terminate(), "exit code")
		require.Lessf(t, time.Since(begin), 10*time.Second, "told to end %s after the start", after)
	}
	// None of this is held against the offer.
	w.start(args)
	agent := w.managed()
	offer, _ := w.server.Offered("")
	w.await(agent, offer.Hash, applied)
}

// A stop in order says nothing about the configuration in trial: the trial goes
// on with the next start.
func TestStopInTrialIsNoVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: longTrial()})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	w.load(w.receiver)
	from := w.server.Mark()
	hash := w.offer(marking("candidate"))
	w.seen("candidate") // so it is in trial
	c.stop()
	assert.NotContains(t, w.states(from, hash), applied)

	c = w.start(args)
	w.seenFromNow("candidate")
	w.await(agent, hash, applied)
	assert.NotContains(t, w.states(from, hash), failed)
	assert.Zero(t, c.count(logReload), "the trial begins with the start")
}

// A process that dies in the trial has died of it, as far as anybody can tell.
func TestDeathInTrialIsAVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: longTrial()})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	w.load(w.receiver)
	w.apply(agent, marking("good"))
	from := w.server.Mark()
	hash := w.offer(marking("candidate"))
	w.seen("candidate")
	c.kill()

	w.start(args)
	after := w.await(agent, hash, failed)
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "the process ended while this configuration was in trial")
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "; running last known good")
	assert.NotContains(t, w.states(from, hash), applied)
	w.seenFromNow("good")
	w.awaitEffective(agent, "value: good")
}

// A connection that breaks says nothing about the configuration in trial, and the
// outcome is reported on the next one.
//
// Conformance: 33
func TestConnectionLossInTrialIsNoVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: "{trial_period: 1s}"})
	c := w.start(w.args())
	agent := w.managed()
	w.load(w.receiver)
	from := w.server.Mark()
	hash := w.offer(marking("candidate"))
	w.seen("candidate")
	require.NoError(t, w.server.Drop(agent.UID))
	w.await(agent, hash, applied)
	w.requireVerdict(from, hash, applied)
	w.awaitEffective(agent, "value: candidate")
	assert.Equal(t, 1, c.count(logReload))
	assert.Equal(t, 2, w.server.Connections())
	assert.Len(t, w.server.Agents(), 1)

	// Nor does a server that goes away and comes back with other plans.
	w.stopServer()
	w.startServer()
	w.managed()
	w.apply(agent, marking("other"))
	w.seen("other")
	w.awaitEffective(agent, "value: other")
}
