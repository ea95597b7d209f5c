//go:build unix

package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// Where the system cannot replace a process (Windows), and where the main is no
// cobra command, so that nobody hears of its end, a configuration that does not
// start ends the process. The next one goes back.
func TestWhereTheProcessCannotBeReplaced(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		env, offer, want string
	}{
		"no execve": {
			"process.reexec=error", "fail_start: true, message: no such account",
			"exporter fault in pipeline traces: no such account",
		},
		"no execve, and the host hangs": {
			"process.reexec=error", "hang_start: true",
			"not ready within apply_timeout",
		},
		"no cobra": {
			"agent.finalize=error", "fail_start: true, message: no such account",
			"the process ended while this configuration was in trial (phase started); before that: exporter fault in pipeline traces: no such account",
		},
		"no cobra, and a panic": {
			"agent.finalize=error", "panic_start: true",
			"the process ended while this configuration was in trial (phase retrieved); before that: panic: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{rollout: fmt.Sprintf("{apply_timeout: %s}", hangTimeout())})
			k := &keeper{w: w, args: w.args()}
			k.start(failpoints + tt.env)
			agent := w.managed()
			w.load(w.receiver)
			w.apply(agent, marking("good"))
			from := w.server.Mark()
			first := k.c
			hash := w.offer(withFault("bad", tt.offer))
			after := k.settled(hash)
			assert.Equal(t, 1, k.deaths)
			code, err := first.Wait(patiently(t))
			require.NoError(t, err)
			assert.NotZero(t, code, "a service manager starts it again")
			require.Equal(t, failed, after.RemoteConfigStatus.Status)
			assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, tt.want)
			w.requireVerdict(from, hash, failed)
			w.seenFromNow("good")
			assert.Zero(t, first.count(logReplaced)+k.c.count(logReplaced))
		})
	}
}

// The last known good hangs when a process starts on it: the agent, which alone
// can act, goes down the ladder.
func TestLastKnownGoodThatHangsAtItsStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: fmt.Sprintf("{apply_timeout: %s}", hangTimeout())})
	args := w.args()
	const hang = "OTELCOL_REMOTE_E2E_HANG="
	c := w.start(args, hang+"false")
	agent := w.managed()
	w.apply(agent, marking("earlier"))
	hash := w.apply(agent, withFault("latest", `hang_start: "${env:OTELCOL_REMOTE_E2E_HANG}"`))
	c.stop()
	w.load(w.receiver)
	c = w.start(args, hang+"true")
	below, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		return a.Health.GetHealthy() && strings.Contains(a.RemoteConfigStatus.ErrorMessage, "; running earlier known good")
	})
	require.NoError(t, err)
	assert.Equal(t, hash, below.RemoteConfigStatus.Hash)
	assert.Equal(t, failed, below.RemoteConfigStatus.Status)
	assert.Contains(t, below.RemoteConfigStatus.ErrorMessage, "it was not ready within apply_timeout")
	w.seenFromNow("earlier")
	assert.Equal(t, 2, c.count(logReplaced), "the last known good is tried twice")
	c.requireAlive()
}

// A local configuration that does not start leads to safe mode, which a new offer
// ends.
//
// Conformance: E11
func TestLocalConfigurationThatDoesNotStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args()
	c := w.start(args) // once, so that there is something to run in safe mode
	agent := w.managed()
	c.stop()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", w.receiver)
	require.NoError(t, err)
	// Neither does safe mode need the port that the Collector's own metrics have by
	// default; somebody else may have it already, which is as good.
	if metrics, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:8888"); err == nil {
		t.Cleanup(func() { assert.NoError(t, metrics.Close()) })
	}
	c = w.start(args)
	ill, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool {
		return a.Connected && strings.Contains(a.Health.GetLastError(), "safe mode")
	})
	require.NoError(t, err)
	assert.Contains(t, ill.Health.GetStatus(), "the last 2 starts failed")
	assert.False(t, ill.Health.GetHealthy())
	require.NoError(t, l.Close())
	hash := w.offer(marking("repaired"))
	w.await(agent, hash, applied)
	w.load(w.receiver)
	w.seen("repaired")
	c.requireAlive()
}

// A candidate that takes more memory than there is takes the process with it, and
// the next one knows why.
func TestOutOfMemoryInTrial(t *testing.T) {
	t.Parallel()
	if slow() {
		t.Skip("the race detector takes memory of its own, and ends a process in other words")
	}
	w := newWorld(t, options{rollout: longTrial()})
	k := &keeper{w: w, args: w.args()}
	k.start()
	agent := w.managed()
	w.load(w.receiver)
	w.apply(agent, marking("good"))
	k.c.limitMemory(600 << 20)
	hash := w.offer(withFault("bad", "after: 100ms, then: leak, leak_bytes: 4000000000"))
	after := k.settled(hash)
	require.Equal(t, failed, after.RemoteConfigStatus.Status)
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "the process ended while this configuration was in trial (phase ready); before that: ")
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "out of memory")
	w.seenFromNow("good")
}

// A machine that goes down in the trial proves nothing: the trial begins again.
func TestRebootInTrial(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: longTrial()})
	k := &keeper{w: w, args: w.args()}
	k.start()
	agent := w.managed()
	w.load(w.receiver)
	hash := w.offer(marking("m1"))
	w.seen("m1")
	k.kill()
	k.bury()

	// The next process sees another boot ID.
	path, err := binary()
	require.NoError(t, err)
	bootID := filepath.Join(w.dir, "boot_id")
	require.NoError(t, os.WriteFile(bootID, []byte("11111111-2222-3333-4444-555555555555\n"), 0o600))
	script := fmt.Sprintf(`mount --bind %q /proc/sys/kernel/random/boot_id && exec %q "$@"`, bootID, path)
	k.c = w.startBinary("unshare", append([]string{"--mount", "sh", "-c", script, "sh"}, k.args...))
	if code, ended := k.c.endedWithin(quiet); ended {
		k.c.ended = true
		t.Skipf("file systems cannot be mounted here (exit code %d): %s", code, k.c.tail())
	}
	after := w.await(agent, hash, applied)
	assert.True(t, after.Connected)
	w.seenFromNow("m1")
	assert.Equal(t, 1, k.c.count("resuming after a reboot of the machine"))
}

// Two agents in one process: the one's configuration fails, and the successor of
// the process has both folders.
func TestTwoAgentsInOneProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	extension := strings.NewReplacer("opamp:", "opamp/other:", "[opamp]", "[opamp, opamp/other]").Replace(w.extension())
	args := append(w.args(w.layer("other.yaml", extension)), "--config=opamp:other?state_dir="+w.state)
	c := w.start(args)
	agents := func() map[string]bool {
		uids := map[string]bool{}
		for _, a := range w.server.Agents() {
			if a.Connected && a.Health.GetHealthy() {
				uids[a.UID] = true
			}
		}
		return uids
	}
	eventually(t, func() bool { return len(agents()) == 2 }, "two agents must connect")
	before := agents()
	var one string
	for uid := range before {
		one = uid
	}
	good := w.server.Offer(one, opampserver.YAML(marking("good")))
	w.await(opampserver.Agent{UID: one}, good, applied)
	hash := w.server.Offer(one, opampserver.YAML(withFault("bad", "fail_start: true")))
	w.await(opampserver.Agent{UID: one}, hash, failed)
	w.load(w.receiver)
	w.seen("good")
	eventually(t, func() bool { return len(agents()) == 2 }, "both must come back")
	assert.Equal(t, before, agents(), "as the same agents")
	assert.Equal(t, 2, c.count("This process replaces its former self"), "of which both agents tell")
	c.requireAlive()
}
