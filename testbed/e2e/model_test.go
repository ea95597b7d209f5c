//go:build unix

package e2e_test

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

const (
	// modelsVariable is the number of random sequences; stepsVariable is how
	// long each is.
	modelsVariable = "OTELCOL_OPAMP_E2E_MODELS"
	stepsVariable  = "OTELCOL_OPAMP_E2E_STEPS"
)

// model is what design section 4 promises, seen from outside: which of the marks
// may run, and what the server may be told.
type model struct {
	// proven are the marks of configurations that were applied; "" is the local
	// configuration.
	proven map[string]bool
	// last is the mark that was applied last.
	last string
	// marks are the marks of all offers by hash.
	marks map[string]string
	// disturbed: since the offer the process died, was told to end, or its disk
	// failed.
	disturbed bool
}

// check compares what the server knows after an offer has settled.
func (m *model) check(k *keeper, c candidate, mark string, a opampserver.Agent, about string) {
	k.w.t.Helper()
	s := a.RemoteConfigStatus
	if s.Status == applied {
		require.True(k.w.t, c.good, "%s: APPLIED", about)
		m.proven[mark], m.last = true, mark
		require.Equal(k.w.t, mark, k.runs(a, map[string]bool{mark: true}), about)
		return
	}
	require.True(k.w.t, !c.good || m.disturbed, "%s: FAILED %q", about, s.ErrorMessage)
	requireExplained(k.w, a, c.before || m.disturbed)
	may := map[string]bool{m.last: true}
	if m.disturbed {
		// Starts that are killed lead down the ladder.
		may = m.proven
	}
	ran := k.runs(a, may)
	// What the text says runs is what runs.
	if _, said, ok := strings.Cut(s.ErrorMessage, "; running last known good "); ok {
		require.Equal(k.w.t, m.markOf(said), ran, "%s: %q", about, s.ErrorMessage)
	}
}

// markOf returns the mark of the configuration whose hash begins a text.
func (m *model) markOf(text string) string {
	for hash, mark := range m.marks {
		if strings.HasPrefix(text, hash[:16]) {
			return mark
		}
	}
	return ""
}

// TestModel lives random lives: offers that are good or bad in every way, deaths,
// restarts, signals, disks that fail and servers that are away, in any order. After
// each offer a model of what is promised says what may run and what may be told.
func TestModel(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes long")
	}
	models, steps := 4, 12
	if slow() {
		models = 2
	}
	models, steps = number(t, modelsVariable, models), number(t, stepsVariable, steps)
	seed := uint64(number(t, seedVariable, 20261122))
	t.Logf("%d sequences (%s) of %d steps (%s), seed %d (%s)", models, modelsVariable, steps, stepsVariable, seed, seedVariable)
	for i := range models {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			live(t, rand.New(rand.NewPCG(seed, uint64(i))), steps)
		})
	}
}

func live(t *testing.T, random *rand.Rand, steps int) {
	t.Helper()
	// The server's port is not one that the system may give to a connection while
	// the server is away.
	w := newWorld(t, options{noServer: true, rollout: fmt.Sprintf("{trial_period: 200ms, apply_timeout: %s}", hangTimeout())})
	k := &keeper{w: w, args: w.args()}
	w.startServer()
	k.start()
	w.managed()
	w.load(w.receiver)
	m := &model{proven: map[string]bool{"": true}, marks: map[string]string{}}
	var did []string
	do := func(format string, args ...any) { did = append(did, fmt.Sprintf(format, args...)) }
	defer func() {
		if t.Failed() {
			t.Logf("what was done:\n%s", strings.Join(did, "\n"))
		}
	}()
	for n := range steps {
		mark := fmt.Sprintf("m%d", n)
		c := candidates()[random.IntN(len(candidates()))]
		m.disturbed = false
		deaths := k.deaths
		var env []string
		switch random.IntN(6) {
		case 0:
			do("the disk fails for a while")
			env = []string{fmt.Sprintf("%sstatedir.%s=error@%d", failpoints, []string{"write:rollout", "sync:rollout", "rename:rollout", "write:bodies", "*"}[random.IntN(5)], 1+random.IntN(20))}
			m.disturbed = true
			k.restart(env...)
		case 1:
			do("restart")
			k.restart()
		case 2:
			do("the server goes away and comes back")
			w.stopServer()
			w.startServer()
		}
		do("offer %s: %s", mark, c.kind)
		hash := w.offer(c.yaml(mark))
		m.marks[hex.EncodeToString(hash)] = mark
		pause := func() { <-time.After(time.Duration(random.IntN(400)) * time.Millisecond) }
		switch random.IntN(6) {
		case 0:
			pause()
			do("SIGKILL")
			m.disturbed = true
			k.kill()
		case 1:
			pause()
			do("SIGTERM")
			m.disturbed = true
			k.restart()
		case 2:
			pause()
			do("SIGHUP")
			_ = k.c.Signal(syscall.SIGHUP) // it may have died of the candidate
		case 3:
			pause()
			do("the server goes away and comes back, with the offer")
			w.stopServer()
			w.startServer()
			hash = w.offer(c.yaml(mark))
		}
		a := k.settled(hash)
		about := fmt.Sprintf("step %d, %s", n, c.kind)
		if k.deaths > deaths && !c.deadly {
			m.disturbed = true
			assert.Contains(t, strings.Join(did, "\n"), "SIGKILL", "%s: the process died by itself", about)
		}
		m.check(k, c, mark, a, about)
	}
	require.NoError(t, k.c.Stop(patiently(t)))
	k.bury()
}
