package guard

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRestarts(t *testing.T) {
	t.Parallel()
	const gaveUp = time.Duration(-1)
	for _, tt := range []struct {
		name  string
		lived []time.Duration
		want  []time.Duration // pauses
	}{
		{
			"one that never comes up",
			[]time.Duration{0, 2 * time.Second, 4 * time.Second, 8 * time.Second, 61 * time.Second},
			[]time.Duration{0, 0, 0, 0, gaveUp},
		},
		{
			"one that worked for an hour and does not come up any more",
			[]time.Duration{time.Hour, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
			[]time.Duration{0, 0, 0, 0, 0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute},
		},
		{
			"one that works again after the pauses",
			[]time.Duration{time.Hour, 0, 0, 0, 0, 0, 0, 70 * time.Second, 0, 0, 0, 0, 0},
			[]time.Duration{0, 0, 0, 0, 0, time.Second, 2 * time.Second, 0, 0, 0, 0, 0, time.Second},
		},
		{
			"one that earns one restart",
			[]time.Duration{time.Hour, 0, 0, 0, 0, 0, 10 * time.Second, 0, 0},
			[]time.Duration{0, 0, 0, 0, 0, time.Second, 0, 2 * time.Second, 4 * time.Second},
		},
		{
			"one that comes up at last may die more than five times",
			[]time.Duration{0, 0, 0, 0, 70 * time.Second, 0, 0, 0, 0, 0},
			[]time.Duration{0, 0, 0, 0, 0, 0, 0, 0, 0, time.Second},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRestarts()
			var got []time.Duration
			for _, lived := range tt.lived {
				pause, giveUp := r.died(lived)
				if giveUp {
					pause = gaveUp
				}
				got = append(got, pause)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

// However the children live, over a long time there is no more than one restart
// for each restartCost and those that were free at the beginning, pauses aside.
func TestRestartsAreBounded(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, seed))
		most := time.Duration(1 + random.Int64N(int64(20*time.Second)))
		r := newRestarts()
		r.settled = true
		var life time.Duration
		atOnce := 0
		for range 500 {
			lived := time.Duration(random.Int64N(int64(most)))
			life += lived
			pause, giveUp := r.died(lived)
			require.False(t, giveUp)
			if pause == 0 {
				atOnce++
			} else {
				require.GreaterOrEqual(t, pause, firstPause)
				require.LessOrEqual(t, pause, maxPause)
			}
			require.LessOrEqual(t, time.Duration(atOnce)*restartCost, maxCredit+life)
		}
	}
}
