//go:build unix

package e2e_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// timesVariable says how often the process is killed at every step.
const timesVariable = "OTELCOL_OPAMP_E2E_KILLS"

// killPoints are the steps of persisting and of a rollout, and how often each is
// done at least from a start to the end of a rollout.
func killPoints() map[string]int {
	points := map[string]int{
		// At every start some records are written before any offer comes.
		"statedir.*":         32,
		"rollout.persist":    5,
		"rollout.check":      1,
		"rollout.trigger":    1,
		"rollout.serve":      2,
		"rollout.report":     2,
		"rollout.starttimer": 4,
		"rollout.restart":    1,
		"rollout.moved":      2,
	}
	for _, step := range []string{"create", "write", "sync", "close", "keep", "rename", "syncfolder", "done"} {
		for _, record := range []string{"rollout", "bodies"} {
			if step == "keep" && record == "bodies" {
				continue // only the record has generations
			}
			points["statedir."+step+":"+record] = map[string]int{"rollout": 5, "bodies": 1}[record]
		}
	}
	return points
}

// Wherever SIGKILL meets a process, the next one runs the candidate in trial, the
// last known good, or what is local; and the server is told which.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes long")
	}
	times := 3
	if slow() {
		times = 1
	}
	times = number(t, timesVariable, times)
	seed := uint64(number(t, seedVariable, 20261122))
	t.Logf("seed %d (%s), %d times each (%s)", seed, seedVariable, times, timesVariable)
	for i, point := range slices.Sorted(maps.Keys(killPoints())) {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			w := newWorld(t, options{rollout: "{trial_period: 100ms}"})
			k := &keeper{w: w, args: w.args()}
			killed := 0
			lastKnownGood := ""
			w.load(w.receiver)
			for n := range times {
				if n > 0 {
					require.NoError(t, k.c.Stop(patiently(t)))
					k.bury()
				}
				k.start(fmt.Sprintf("%s%s=kill@%d", failpoints, point, 1+random.IntN(killPoints()[point])))
				mark := fmt.Sprintf("m%d", n)
				c := candidates()[random.IntN(3)]
				if point == "rollout.restart" {
					c = candidates()[1] // the others need none
				}
				hash := w.offer(c.yaml(mark))
				before := k.deaths
				agent := k.settled(hash)
				died := k.deaths > before
				if died {
					killed++
				}
				about := fmt.Sprintf("life %d, %s, died: %t: %s", n, c.kind, died, agent.RemoteConfigStatus.ErrorMessage)
				if agent.RemoteConfigStatus.Status == applied {
					assert.True(t, c.good, about)
					k.runs(agent, map[string]bool{mark: true})
					lastKnownGood = mark
					continue
				}
				assert.True(t, !c.good || died, about)
				requireExplained(w, agent, false)
				k.runs(agent, map[string]bool{lastKnownGood: true})
			}
			require.NoError(t, k.c.Stop(patiently(t)))
			k.bury()
			t.Logf("killed %d of %d times", killed, times)
			assert.Equal(t, times, killed, "times that the step was met")
		})
	}
}
