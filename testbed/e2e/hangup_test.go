//go:build unix

package e2e_test

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A SIGHUP makes the Collector read its local files again. The session and the
// remote configuration stay.
//
// Conformance: 38, E8
func TestLocalEditAndHangup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	local := func(value string) string {
		return fmt.Sprintf("processors: {attributes/local: {actions: [{key: e2e.local, value: %q, action: upsert}]}}", value)
	}
	c := w.start(w.args(w.layer("edited.yaml", local("one"))))
	agent := w.managed()
	l := w.load(w.receiver)
	hash := w.apply(agent, fmt.Sprintf(`
processors:
  attributes/e2e: {actions: [{key: %s, value: remote, action: upsert}]}
service: {pipelines: {traces: {processors: [attributes/local, attributes/e2e, batch]}}}`, markKey))
	w.seen("remote")
	_, err := w.sink.WaitAttribute(patiently(t), "e2e.local", "one")
	require.NoError(t, err)

	from := w.server.Mark()
	w.layer("edited.yaml", local("two"))
	require.NoError(t, c.Signal(syscall.SIGHUP))
	_, err = w.sink.WaitAttribute(patiently(t), "e2e.local", "two")
	require.NoError(t, err)
	w.seenFromNow("remote")
	w.awaitEffective(agent, "value: two")
	last, _ := w.server.Agent(agent.UID)
	assert.Equal(t, hash, last.RemoteConfigStatus.Hash)
	assert.Equal(t, applied, last.RemoteConfigStatus.Status)
	assert.Empty(t, w.statuses(from), "a local edit is no rollout")
	w.requireOneSession()
	l.requireNothingLost()
}

// However often somebody reloads meanwhile: a configuration is called applied
// only if it ran.
func TestStormOfHangups(t *testing.T) {
	t.Parallel()
	const (
		seed   = 20261122 // any: it makes a failure repeatable, as far as a process can be
		rounds = 8
		offers = 2 // in each round
		// hangups are those at random moments. One more follows soon after each
		// offer, while that is being checked, triggered or started.
		hangups = 5
	)
	length, soon := time.Second, 80*time.Millisecond
	if slow() {
		length, soon = 4*length, 20*soon
	}
	random := rand.New(rand.NewPCG(seed, seed))
	within := func(d time.Duration) time.Duration { return time.Duration(random.Int64N(int64(d))) }

	w := newWorld(t, options{rollout: "{trial_period: 100ms}"})
	c := w.start(w.args())
	agent := w.managed()
	w.load(w.receiver).flows()
	marks := map[string]string{} // hash → mark
	var last []byte
	offer := func() {
		mark := fmt.Sprint("offer ", len(marks))
		last = w.offer(marking(mark))
		marks[hex.EncodeToString(last)] = mark
	}
	hangUp := func() { require.NoError(t, c.Signal(syscall.SIGHUP)) }

	for range rounds {
		plan := map[time.Duration]func(){}
		for range offers {
			at := within(length)
			plan[at] = offer
			plan[at+within(soon)] = hangUp
		}
		for range hangups {
			plan[within(length)] = hangUp
		}
		begin := time.Now()
		for _, at := range slices.Sorted(maps.Keys(plan)) {
			<-time.After(time.Until(begin.Add(at)))
			plan[at]()
		}
		w.await(agent, last, applied)
		w.seenFromNow(marks[hex.EncodeToString(last)])
		w.awaitEffective(agent, "value: "+marks[hex.EncodeToString(last)]+"\n")
	}

	credited := 0
	for _, s := range w.statuses(0) {
		assert.NotEqual(t, failed, s.state, s.message)
		if s.state == applied {
			credited++
			assert.Truef(t, w.wasSeen(marks[s.hash]), "%q was reported as applied and never ran", marks[s.hash])
		}
	}
	t.Logf("%d of %d offers were applied, %d reloads", credited, len(marks), c.count(logReload))
	assert.GreaterOrEqual(t, credited, rounds)
	c.requireAlive()
	c.requireNoChildren()
	w.requireOneSession()
}
