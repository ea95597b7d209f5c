//go:build unix

package e2e_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Two hundred changes in a row leave nothing behind.
func TestManyAppliedConfigurationsLeaveNothingBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	t.Parallel()
	// warmUp is after what the runtime, the libraries and the history of
	// configurations (five earlier ones) have settled.
	const changes, warmUp = 200, 20
	// The runtime starts a thread when others are busy in the kernel, and never
	// ends one. One for each tenth change would be a leak.
	const moreThreads = (changes - warmUp) / 10
	w := newWorld(t, options{rollout: "{trial_period: 1ms}"})
	profiles := freeAddr(t)
	c := w.start(w.args(w.layer("profiles.yaml", fmt.Sprintf("extensions: {fault: {pprof: %q}}\nservice: {extensions: [opamp, fault]}", profiles))))
	agent := w.managed()
	l := w.load(w.receiver)
	change := func(from, to int) {
		for i := from; i < to; i++ {
			w.apply(agent, marking(fmt.Sprint("change ", i)))
		}
		w.seen(fmt.Sprint("change ", to-1))
		c.requireNoChildren()
	}
	change(0, warmUp)
	before, goroutines := c.usage(), w.goroutines(profiles)
	change(warmUp, changes)
	assert.Equal(t, changes, c.count(logReload))
	eventually(t, func() bool { return c.usage().descriptors <= before.descriptors }, "descriptors must not grow")
	eventually(t, func() bool { return w.goroutines(profiles) <= goroutines+inFlight }, "goroutines must not grow")
	after := c.usage()
	t.Logf("after %d changes: %+v, after %d: %+v", warmUp, before, changes, after)
	assert.LessOrEqual(t, after.threads, before.threads+moreThreads)
	// Half of it is several times what garbage collection makes it go up and down
	// by, and a tenth of what it would be if no generation were ever freed.
	assert.LessOrEqual(t, after.memory, before.memory+before.memory/2)
	w.requireOneSession()
	l.requireNothingLost()
}
