//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

const logGuardStart = "Guard: started the Collector"

// guarded are the arguments of a Collector with a guard.
func (w *world) guarded(layers ...string) []string {
	args := w.args(layers...)
	args[len(args)-1] = "--config=opamp:?guard=true&state_dir=" + w.state
	return args
}

// guarded returns the Collector that the process guards, which must be there.
func (c *collector) guarded() int {
	c.w.t.Helper()
	children, err := c.Children()
	require.NoError(c.w.t, err)
	require.Len(c.w.t, children, 1, "children of the guard")
	return children[0]
}

// crash makes the guarded Collector die.
func (c *collector) crash() {
	c.w.t.Helper()
	require.NoError(c.w.t, syscall.Kill(c.guarded(), syscall.SIGSEGV))
}

// A candidate that takes the process with it is rolled back, explained, and
// nobody has to start anything.
func TestGuardRestartsACollectorThatDiedInTrial(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: longTrial()})
	c := w.start(w.guarded())
	agent := w.managed()
	w.load(w.receiver)
	good := w.apply(agent, marking("good"))
	first := c.guarded()
	assert.NotEqual(t, c.PID(), first)

	hash := w.offer(marking("bad"))
	w.seen("bad")
	c.crash()
	after := w.await(agent, hash, failed)
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, "SIGSEGV")
	assert.Contains(t, after.RemoteConfigStatus.ErrorMessage, fmt.Sprintf("; running last known good %.8x", good))
	w.seenFromNow("good")
	c.requireAlive()
	assert.NotEqual(t, first, c.guarded())
	assert.Equal(t, 2, c.count(logGuardStart), "a dry run is nothing for the guard")
	w.apply(agent, marking("next"))
	assert.Len(t, w.server.Agents(), 1)
	c.stop() // with the exit code 0 of a Collector that has none
}

// A SIGHUP to the process that somebody started reloads the one that it guards.
func TestGuardForwardsAHangup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	c := w.start(w.guarded(w.layer("edited.yaml", marking("one"))))
	agent := w.managed()
	w.load(w.receiver)
	w.seen("one")
	child := c.guarded()
	w.layer("edited.yaml", marking("two"))
	require.NoError(t, c.Signal(syscall.SIGHUP))
	w.seen("two")
	w.awaitEffective(agent, "value: two")
	assert.Equal(t, child, c.guarded())
	w.requireOneSession()
}

// Whenever it is told to end, a guard ends soon, as a Collector would have, and
// takes its Collector along.
func TestGuardIsStoppedWhileStarting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.guarded()
	const step, steps = 9 * time.Millisecond, 12 // both starts together take some 80 ms
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
}

// A guard that is killed takes its Collector along, in order.
func TestGuardIsKilled(t *testing.T) {
	t.Parallel()
	for name, replaced := range map[string]bool{"as started": false, "after the Collector has replaced itself": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			c := w.start(w.guarded())
			agent := w.managed()
			child := c.guarded()
			if replaced {
				w.await(agent, w.offer(withFault("bad", "fail_start: true")), failed)
				_, err := w.server.WaitFor(patiently(t), agent.UID, func(a opampserver.Agent) bool { return a.Connections == 2 && a.Health.GetHealthy() })
				require.NoError(t, err)
				require.Equal(t, child, c.guarded())
			}
			from := w.server.Mark()
			c.ended = true
			require.NoError(t, c.Kill())
			_, err := w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool { return m.Received.GetAgentDisconnect() != nil })
			require.NoError(t, err, "the Collector must say goodbye")
			eventually(t, func() bool {
				left, err := c.Leftovers()
				require.NoError(t, err)
				return len(left) == 0
			}, "the Collector must end")
			c.checkRemains()
		})
	}
}

// A local configuration that is broken from the beginning ends as it does without
// a guard: with the Collector's error and exit code.
func TestGuardGivesUp(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]string{
		"a file that cannot be read":        "receivers: [",
		"a configuration that is not valid": "exporters: {nonesuch: {}}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stock := newWorld(t, options{noServer: true})
			code, log := run(t, stock.args(stock.layer("broken.yaml", broken)))
			message := errorLine(log)
			require.NotEmpty(t, message, log)

			w := newWorld(t, options{noServer: true})
			layer := w.layer("broken.yaml", broken)
			c := w.start(w.guarded(layer))
			guardCode, err := c.Wait(patiently(t))
			require.NoError(t, err)
			c.ended = true
			assert.Equal(t, code, guardCode)
			assert.Contains(t, c.Log(), message)
			assert.Contains(t, c.Log(), "Guard: giving up")
			assert.Equal(t, 5, c.count(logGuardStart))
			c.checkRemains()
		})
	}
}

// errorLine is the beginning of what cobra prints of a command that failed.
func errorLine(log string) string {
	_, message, _ := strings.Cut(log, "Error: ")
	first, _, _ := strings.Cut(message, "\n")
	first, _, _ = strings.Cut(first, "/") // paths differ
	return first
}

// A Collector that was managed before has a safe mode for a broken local file,
// also under a guard, also if the file is the first thing that is read.
func TestGuardAndSafeMode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.guarded()
	c := w.start(args)
	agent := w.managed()
	w.load(w.receiver)
	w.apply(agent, marking("good"))
	c.stop()
	w.layer("pipeline.yaml", "receivers: [")
	from := w.server.Mark()
	c = w.start(args)
	_, err := w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool {
		return strings.Contains(m.Received.GetHealth().GetLastError(), "safe mode")
	})
	require.NoError(t, err)
	c.requireAlive()
	assert.Equal(t, 1, c.count(logGuardStart), "the Collector has replaced itself")
}

// What does not run the configuration is no guard.
func TestGuardIsNotForOtherCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noServer: true})
	args := w.guarded()
	for _, command := range [][]string{
		append([]string{"validate"}, args...),
		append(slices.Clone(args), "validate"),
		append([]string{"print-config"}, args...),
		append(slices.Clone(args), "components"),
	} {
		code, log := run(t, command)
		if !slices.Contains(command, "components") { // it takes no flags, in some versions
			assert.Zerof(t, code, "%s: %s", command, log)
		}
		assert.NotContains(t, log, "Guard:")
		assert.NoDirExists(t, w.state)
	}
}

// As the first process of a container the guard is the parent of whatever loses
// its own.
func TestGuardAsProcessOne(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), "unshare", "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("no PID namespace can be made here: %v: %s", err, out)
	}
	w := newWorld(t, options{})
	path, err := binary()
	require.NoError(t, err)
	fifo := filepath.Join(w.dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	// The subshell ends at once, and leaves what it started to process 1.
	args := append([]string{"--pid", "--fork", "--mount-proc", "sh", "-c", `(cat "$0" & echo "orphan in $$"); exec "$@"`, fifo, path}, w.guarded()...)
	outer, err := otelcol.Start(otelcol.Settings{Binary: "unshare", Args: args})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, outer.KillAll()) })
	require.NoError(t, outer.WaitLog(patiently(t), "orphan in 1"))
	agent := w.managed()
	w.load(w.receiver)
	hash := w.apply(agent, marking("good"))
	w.seen("good")

	// Seen from outside, the processes have other IDs.
	one := childrenOf(t, outer.PID())
	require.Len(t, one, 1)
	require.Len(t, childrenOf(t, one[0]), 2, "the Collector and the orphan")
	require.NoError(t, os.WriteFile(fifo, nil, 0o600)) // the orphan ends
	eventually(t, func() bool { return len(childrenOf(t, one[0])) == 1 }, "the orphan must be reaped")

	from := w.server.Mark()
	require.NoError(t, syscall.Kill(childrenOf(t, one[0])[0], syscall.SIGSEGV))
	_, err = w.server.WaitMessage(patiently(t), from, func(m opampserver.Message) bool {
		return m.Received.GetRemoteConfigStatus() != nil || m.Received.GetHealth().GetHealthy()
	})
	require.NoError(t, err)
	w.seenFromNow("good")
	last, _ := w.server.Agent(agent.UID)
	assert.Equal(t, hash, last.RemoteConfigStatus.Hash)

	require.NoError(t, syscall.Kill(one[0], syscall.SIGTERM))
	code, err := outer.Wait(patiently(t))
	require.NoError(t, err)
	assert.Zero(t, code)
	left, err := outer.Leftovers()
	require.NoError(t, err)
	assert.Empty(t, left)
	assert.Contains(t, outer.Log(), `Guard: the Collector has ended as it was told to	{"status": "exit code 0"}`)
}

// childrenOf returns the processes, zombies too, whose parent has the given PID.
func childrenOf(t *testing.T, parent int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/status")
	require.NoError(t, err)
	var pids []int
	for _, path := range stats {
		content, _ := os.ReadFile(path) // it may have ended
		if strings.Contains(string(content), fmt.Sprintf("\nPPid:\t%d\n", parent)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			require.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// What a guard costs, and what it is worth. The bounds are for a busy machine; the
// log has the numbers.
func TestGuardMemoryAndOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	c := w.start(w.guarded())
	agent := w.managed()
	l := w.load(w.receiver)
	w.apply(agent, marking("good"))
	l.flows()
	for who, pid := range map[string]int{"guard": c.PID(), "Collector": c.guarded()} {
		m := memory(t, pid)
		t.Logf("%s: RSS %d kB, PSS %d kB, of which private %d kB", who, m["Rss"], m["Pss"], m["Private_Clean"]+m["Private_Dirty"])
	}
	if !slow() {
		assert.Less(t, memory(t, c.PID())["Private_Dirty"], 20_000, "kB of the guard that nobody shares")
	}
	var crashes []time.Time
	for range 2 {
		crashes = append(crashes, time.Now())
		c.crash()
		l.flows()
	}
	result := l.Stop(patiently(t))
	crashes = append(crashes, result.Stopped)
	for i, at := range crashes[:len(crashes)-1] {
		refused := result.RefusedBetween(at, crashes[i+1])
		gap, _ := result.LongestGapBetween(at.Add(-time.Second/loadRate*4), crashes[i+1]) // from a success before it
		t.Logf("crash %d: %d requests refused, no success for %s", i+1, len(refused), gap)
		assert.Less(t, gap, shutdownPatience)
	}
	c.requireAlive()
	assert.Equal(t, 3, c.count(logGuardStart))
}

// memory returns what the kernel says of a process's memory, in kB.
func memory(t *testing.T, pid int) map[string]int {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	require.NoError(t, err)
	m := map[string]int{}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[2] == "kB" {
			m[strings.TrimSuffix(fields[0], ":")], err = strconv.Atoi(fields[1])
			require.NoError(t, err)
		}
	}
	return m
}
