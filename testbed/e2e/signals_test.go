//go:build unix

package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	seedVariable  = "OTELCOL_OPAMP_E2E_SEED"
	livesVariable = "OTELCOL_OPAMP_E2E_LIVES"

	// endBound is what a process may take to end that is told to when nothing
	// hangs. It takes tens of milliseconds; ten seconds are what supervisors
	// of containers allow at least.
	endBound = 10 * time.Second
)

// hangTimeout is the apply_timeout of a test in which something hangs: long
// against a start, short for whoever waits.
func hangTimeout() time.Duration {
	if slow() {
		return 5 * time.Second
	}
	return time.Second
}

// number reads a number from the environment.
func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoErrorf(t, err, "reading %s", variable)
	return n
}

// endsWhenTold sends SIGTERM and checks that the process then ends within the
// bound, in order or by the signal, and that nothing takes its place.
func (c *collector) endsWhenTold(bound time.Duration) {
	c.w.t.Helper()
	begin := time.Now()
	code := c.terminate() // checks that nothing is left
	took := time.Since(begin)
	assert.Containsf(c.w.t, []int{0, 128 + int(syscall.SIGTERM)}, code, "exit code %s after SIGTERM", took)
	assert.Less(c.w.t, took, bound, "from SIGTERM to the end")
	l, err := (&net.ListenConfig{}).Listen(c.w.t.Context(), "tcp", c.w.receiver)
	if assert.NoError(c.w.t, err, "the receiver's port is free") {
		assert.NoError(c.w.t, l.Close())
	}
}

// fate is a kind of candidate, and what becomes of it.
type fate struct {
	name, yaml string
	verdict    protobufs.RemoteConfigStatuses
	runs       string // the mark of what runs at last
	hangs      bool
}

func fates() []fate {
	return []fate{
		{"good", marking("good"), applied, "good", false},
		{"does not start", withFault("bad", "fail_start: true"), failed, "local", false},
		{"hangs in Start", withFault("bad", "hang_start: true"), failed, "local", true},
		{"gives up in the trial", turningBad("bad", ""), failed, "local", false},
		{"panics in Start", withFault("bad", "panic_start: true"), failed, "local", false},
	}
}

// fated starts a Collector for a candidate of this kind.
func (f fate) fated(t *testing.T) (w *world, args []string, c *collector, agent opampserver.Agent) {
	t.Helper()
	timeout := time.Minute
	if f.hangs {
		timeout = hangTimeout()
	}
	w = newWorld(t, options{rollout: fmt.Sprintf("{trial_period: 200ms, apply_timeout: %s}", timeout)})
	args = w.args(w.layer("mark.yaml", marking("local")))
	c = w.start(args)
	agent = w.managed()
	return w, args, c, agent
}

// settles waits until the rollout is over, and checks its outcome and that spans
// pass.
func (f fate) settles(w *world, agent opampserver.Agent, hash []byte) {
	w.t.Helper()
	w.await(agent, hash, f.verdict)
	w.load(w.receiver)
	w.seenFromNow(f.runs)
	after, err := w.server.WaitFor(patiently(w.t), agent.UID, func(a opampserver.Agent) bool {
		return a.Connected && a.Health.GetHealthy() && strings.Contains(a.EffectiveConfig[""], "value: "+f.runs)
	})
	require.NoError(w.t, err)
	assert.Equal(w.t, f.verdict, after.RemoteConfigStatus.Status)
}

// Whenever in a rollout a process is told to end, it ends; a SIGHUP never ends it.
// Neither changes what becomes of the candidate.
func TestSignalsAtRandomMoments(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	t.Parallel()
	const (
		// atOnce is how many Collectors live at a time: most of a life is waiting.
		atOnce = 4
		// window is the time from the offer in which the signal comes: a rollout
		// takes some 50 ms to Ready, the trial 200 ms, and going back as long.
		window = 600 * time.Millisecond
	)
	lives, within := 200, window
	if slow() {
		lives, within = 40, 10*window
	}
	seed := uint64(number(t, seedVariable, 20261122))
	lives = number(t, livesVariable, lives)
	t.Logf("seed %d (set %s to repeat or vary), %d lives (%s)", seed, seedVariable, lives, livesVariable)

	type life struct {
		name   string
		fate   fate
		signal syscall.Signal
		moment time.Duration
	}
	random := rand.New(rand.NewPCG(seed, seed))
	plan := make(chan life, lives)
	for i := range lives {
		l := life{
			fate:   fates()[random.IntN(len(fates()))],
			signal: []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP}[random.IntN(2)],
		}
		// Squared: most of a rollout happens soon after the offer.
		share := random.Float64()
		l.moment = time.Duration(share * share * float64(within))
		l.name = fmt.Sprintf("%03d %s, %s after %s", i, l.fate.name, l.signal, l.moment.Round(time.Millisecond))
		plan <- l
	}
	close(plan)
	var living sync.WaitGroup
	defer living.Wait()
	for range atOnce {
		living.Go(func() {
			for l := range plan {
				t.Run(l.name, func(t *testing.T) {
					w, args, c, agent := l.fate.fated(t)
					hash := w.offer(l.fate.yaml)
					<-time.After(l.moment)
					if l.signal == syscall.SIGTERM {
						bound := endBound
						if l.fate.hangs {
							bound += hangTimeout()
						}
						c.endsWhenTold(bound)
						c = w.start(args) // with which the rollout goes on
					} else {
						require.NoError(t, c.Signal(syscall.SIGHUP))
					}
					l.fate.settles(w, agent, hash)
					c.requireAlive()
					c.requireNoChildren()
				})
			}
		})
	}
}

// moments are points of a rollout that a line of the log or a span tells of. The
// test of random signals meets some of them rarely.
var moments = map[string]struct {
	fate    fate
	rollout string
	// before is applied first, if there is one.
	before string
	reach  func(c *collector, fromLog int)
	// only is the signal for which no other test is there; 0 if both lack one.
	only syscall.Signal
	// times is how often it is tried: a moment may be over before the signal is
	// there.
	times int
}{
	"a component hangs in Start": { // see TestStopWhileAComponentHangs for SIGTERM
		fate:    fate{"", withFault("bad", "hang_start: true"), failed, "local", true},
		rollout: fmt.Sprintf("{apply_timeout: %s}", 3*time.Second),
		reach:   logs("Starting extensions..."),
		only:    syscall.SIGHUP,
		times:   1,
	},
	"in the trial": { // see TestStopInTrialIsNoVerdict for SIGTERM
		fate:    fate{"", marking("good"), applied, "good", false},
		rollout: longTrial(),
		reach: func(c *collector, _ int) {
			c.w.load(c.w.receiver)
			c.w.seen("good")
		},
		only:  syscall.SIGHUP,
		times: 1,
	},
	"between the hook and the execve": {
		fate:  fate{"", withFault("bad", "fail_start: true"), failed, "local", false},
		reach: logs(logReplacing),
		times: 8,
	},
	"right after the execve": {
		fate:  fate{"", withFault("bad", "fail_start: true"), failed, "local", false},
		reach: logs(logReplaced),
		times: 8,
	},
	"in the hanging Shutdown of the retiring configuration": {
		fate:    fate{"", marking("good"), applied, "good", false},
		rollout: fmt.Sprintf("{drain_timeout: %s}", 3*time.Second),
		before:  withFault("before", "hang_shutdown: true"),
		reach:   logs("Starting shutdown..."),
		times:   1,
	},
}

// logs reaches a moment by a line of the log.
func logs(text string) func(*collector, int) {
	return func(c *collector, fromLog int) {
		_, err := c.WaitLogAfter(patiently(c.w.t), fromLog, text)
		require.NoError(c.w.t, err)
	}
}

// At the moments at which a signal is most likely to be lost, or to do harm, it
// does what it does at any other. Ending when told to is no verdict: the rollout
// goes on with the next start.
func TestSignalsAtMarkedMoments(t *testing.T) {
	t.Parallel()
	for name, m := range moments {
		for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
			if m.only != 0 && m.only != s {
				continue
			}
			t.Run(name+", "+s.String(), func(t *testing.T) {
				t.Parallel()
				for i := range m.times {
					t.Run(strconv.Itoa(i), func(t *testing.T) {
						w := newWorld(t, options{rollout: m.rollout})
						args := w.args(w.layer("mark.yaml", marking("local")))
						c := w.start(args)
						agent := w.managed()
						if m.before != "" {
							w.apply(agent, m.before)
						}
						from := c.LogMark()
						hash := w.offer(m.fate.yaml)
						m.reach(c, from)
						if s == syscall.SIGTERM {
							c.endsWhenTold(endBound)
							c = w.start(args)
						} else {
							require.NoError(t, c.Signal(s))
						}
						m.fate.settles(w, agent, hash)
						c.requireAlive()
						c.requireNoChildren()
					})
				}
			})
		}
	}
}
