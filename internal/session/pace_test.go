package session_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// many is how often a random pause is drawn to see its bounds: in a hundred draws
// none above half of the bound is rarer than a broken computer.
const many = 100

// drawn returns the shortest and the longest of many pauses, each of a Pace of its
// own.
func drawn(pause func(p *session.Pace) time.Duration) (shortest, longest time.Duration) {
	shortest = 1 << 62
	for range many {
		p := &session.Pace{}
		p.Use("ws://server", session.DefaultTimes())
		d := pause(p)
		shortest, longest = min(shortest, d), max(longest, d)
	}
	return shortest, longest
}

// TestPausesGrowAndVary: each is drawn from zero up to a bound, which doubles up
// to a minute.
//
// Conformance: 150
func TestPausesGrowAndVary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for failures, bound := range map[int]time.Duration{
			1: 2 * time.Second, 2: 4 * time.Second, 3: 8 * time.Second, 5: 32 * time.Second, 6: time.Minute, 1000: time.Minute,
		} {
			shortest, longest := drawn(func(p *session.Pace) time.Duration {
				for range failures {
					time.Sleep(p.Next()) // no time passes: see synctest
					p.Fail()
				}
				return p.Next()
			})
			assert.LessOrEqual(t, longest, bound, failures)
			assert.Greater(t, longest, bound/2, failures)
			assert.Less(t, shortest, bound/4, failures)
		}
	})
}

// TestFirstAttemptIsMadeAtOnce, and so is that to another server.
func TestFirstAttemptIsMadeAtOnce(t *testing.T) {
	t.Parallel()
	p := &session.Pace{}
	p.Use("ws://server", session.DefaultTimes())
	assert.LessOrEqual(t, p.Next(), time.Duration(0))
	p.LeaveAlone(time.Minute)
	p.Use("ws://server", session.DefaultTimes()) // another session
	assert.Greater(t, p.Next(), 50*time.Second)
	p.Use("ws://another", session.DefaultTimes())
	assert.LessOrEqual(t, p.Next(), time.Duration(0))
}

// TestReconnectVaries: all agents lose a server that restarts at the same moment.
//
// Conformance: 151
func TestReconnectVaries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shortest, longest := drawn(func(p *session.Pace) time.Duration {
			for range 10 {
				p.Fail() // long ago
			}
			time.Sleep(p.Next())
			p.Connected()
			time.Sleep(time.Minute) // it lives
			return p.Next()
		})
		assert.LessOrEqual(t, longest, 2*time.Second)
		assert.Greater(t, longest, time.Second)
		assert.Less(t, shortest, time.Second/2)
	})
}

// TestShortConnectionsAreFailures, also for the next session: a session that is
// ended by the agent forgets nothing.
//
// Conformance: 151
func TestShortConnectionsAreFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, longest := drawn(func(p *session.Pace) time.Duration {
			for range 10 {
				time.Sleep(p.Next())
				p.Connected()
				time.Sleep(time.Minute - time.Second)
			}
			return p.Next()
		})
		assert.Greater(t, longest, time.Minute/2)
		_, longest = drawn(func(p *session.Pace) time.Duration {
			for range 10 {
				p.Fail()
			}
			time.Sleep(p.Next())
			p.Connected()
			p.Left()
			p.Use("ws://server", session.DefaultTimes())
			assert.LessOrEqual(t, p.Next(), time.Duration(0), "the agent wanted another connection")
			p.Fail()
			return p.Next()
		})
		assert.Greater(t, longest, time.Minute/2)
	})
}

// TestWishesOfTheServer are obeyed, varied and bounded.
//
// Conformance: 153
func TestWishesOfTheServer(t *testing.T) {
	t.Parallel()
	for wish, want := range map[time.Duration]struct{ least, most time.Duration }{
		0:                  {30 * time.Second, 45 * time.Second}, // none
		100 * time.Second:  {100 * time.Second, 150 * time.Second},
		50 * time.Minute:   {50 * time.Minute, time.Hour},
		1<<63 - 1:          {30 * time.Minute, time.Hour},
		-100 * time.Second: {30 * time.Second, 45 * time.Second},
	} {
		shortest, longest := drawn(func(p *session.Pace) time.Duration { return p.LeaveAlone(wish) })
		assert.GreaterOrEqual(t, shortest, want.least, wish)
		assert.LessOrEqual(t, longest, want.most, wish)
		assert.Greater(t, longest-shortest, (want.most-want.least)/4, wish)
	}
	shortest, longest := drawn(func(p *session.Pace) time.Duration {
		p.Vary(100 * time.Second)
		return p.Next()
	})
	assert.LessOrEqual(t, longest, 50*time.Second)
	assert.Greater(t, longest-shortest, 10*time.Second)
}
