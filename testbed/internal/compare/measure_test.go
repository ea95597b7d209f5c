package compare

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/load"
)

// account is a load of 1000 requests per second of which some were refused; an
// accepted one is answered 1 ms after it was made.
func account(refused func(seq uint64) bool) load.Result {
	started := time.Unix(1000, 0)
	r := load.Result{Started: started, Sent: 1000}
	for seq := uint64(1); seq <= r.Sent; seq++ {
		made := started.Add(time.Duration(seq) * time.Millisecond)
		if refused(seq) {
			r.Refused = append(r.Refused, load.Refusal{Seq: seq, Time: made})
			continue
		}
		r.Accepted = append(r.Accepted, seq)
		r.Successes = append(r.Successes, load.Success{Seq: seq, Time: made.Add(time.Millisecond)})
	}
	return r
}

func TestOutage(t *testing.T) {
	t.Parallel()
	between := func(from, to uint64) func(uint64) bool {
		return func(seq uint64) bool { return seq >= from && seq <= to }
	}
	for name, c := range map[string]struct {
		refused func(uint64) bool
		outage  time.Duration
		count   int
	}{
		"none": {func(uint64) bool { return false }, time.Millisecond, 0},
		// From the last answer before, at 300 ms, to the first one after, at 400 ms.
		"one interval": {between(300, 398), 100 * time.Millisecond, 99},
		// A moment of service in between does not make it shorter: from the first
		// refused request to the first answer after the last.
		"two intervals": {func(seq uint64) bool { return seq >= 300 && seq <= 349 || seq >= 352 && seq <= 398 }, 100 * time.Millisecond, 97},
		"to the end":    {between(900, 1000), 100 * time.Millisecond, 101},
		"before":        {between(10, 20), time.Millisecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := account(c.refused)
			got, refused := outage(result, 1000, result.Started.Add(100*time.Millisecond), result.Started.Add(time.Second))
			assert.Equal(t, c.outage, got)
			assert.Equal(t, c.count, refused)
		})
	}
}

// A request that waits for the Collector to come back and is then accepted is no
// refusal, but the time without an answer counts.
func TestOutageWithoutRefusal(t *testing.T) {
	t.Parallel()
	result := account(func(uint64) bool { return false })
	for i := range result.Successes {
		if s := &result.Successes[i]; s.Seq >= 300 {
			s.Time = s.Time.Add(80 * time.Millisecond)
		}
	}
	got, refused := outage(result, 1000, result.Started.Add(100*time.Millisecond), result.Started.Add(time.Second))
	assert.Equal(t, 81*time.Millisecond, got)
	assert.Zero(t, refused)
}
