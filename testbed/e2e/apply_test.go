//go:build unix

package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// An offer is applied in the running process: the session survives, and no span
// that was accepted is lost.
//
// Conformance: 1, 29, 30, 73, 76
func TestOfferIsAppliedInPlace(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]options{
		"ws":    {transport: opampserver.WebSocket},
		"http":  {transport: opampserver.HTTP},
		"wss":   {transport: opampserver.WebSocket, tls: true},
		"https": {transport: opampserver.HTTP, tls: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, o)
			c := w.start(w.args())
			agent := w.managed()
			require.True(t, accepts(agent, protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig))
			require.NotContains(t, agent.EffectiveConfig[""], "attributes/e2e")
			l := w.load(w.receiver)
			l.flows()
			require.Zero(t, l.Progress().Refused, "refused before anything was offered")

			from := w.server.Mark()
			hash := w.offer(marking("candidate"))
			w.await(agent, hash, applied)
			w.seen("candidate")
			l.flows()
			w.awaitEffective(agent, "attributes/e2e")
			w.awaitEffective(agent, "value: candidate")

			w.requireVerdict(from, hash, applied)
			l.requireNothingLost()
			c.requireAlive()
			w.requireOneSession()
			assert.Equal(t, 1, c.count(logReload), "reloads")
			last, _ := w.server.Agent(agent.UID)
			assert.True(t, last.Health.GetHealthy())
		})
	}
}

// The files of an offer are merged by name, later over earlier and the one
// without a name last, in whatever order they come over the wire.
//
// Conformance: 71
func TestFilesAreMergedByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{rollout: "{trial_period: 50ms}"})
	w.start(w.args(w.layer("mark.yaml", marking("local"))))
	agent := w.managed()
	w.load(w.receiver)
	actions := func(value string) string {
		return fmt.Sprintf("processors: {attributes/e2e: {actions: [{key: %s, value: %q, action: upsert}]}}", markKey, value)
	}
	// Protocol buffers put the files of each message in another order: eight times
	// right by chance is as good as impossible.
	for i := range 8 {
		win := fmt.Sprint("winner ", i)
		files := map[string]string{"a.yaml": actions(fmt.Sprint("a ", i)), "b.yaml": actions(win)}
		if i%2 == 0 {
			files = map[string]string{"a.yaml": actions(fmt.Sprint("a ", i)), "~": actions(fmt.Sprint("~ ", i)), "": actions(win)}
		}
		hash := w.server.Offer("", named(files))
		w.await(agent, hash, applied)
		w.seen(win)
		for _, name := range []string{"a", "~"} {
			assert.False(t, w.wasSeen(fmt.Sprint(name, " ", i)))
		}
	}
	w.requireOneSession()
}

// An offer of nothing means the local configuration only, and is applied like
// any other.
func TestEmptyOfferMeansLocalOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args(w.layer("mark.yaml", marking("local")))
	c := w.start(args)
	agent := w.managed()
	w.load(w.receiver)
	w.apply(agent, marking("remote"))
	w.seen("remote")

	from := w.server.Mark()
	empty := w.server.Offer("", opampserver.Offer{})
	w.await(agent, empty, applied)
	w.requireVerdict(from, empty, applied)
	w.seenFromNow("local")
	w.awaitEffective(agent, "value: local")
	w.requireOneSession()

	c.stop()
	w.start(args)
	w.seenFromNow("local")
	again := w.managed()
	assert.Equal(t, empty, again.RemoteConfigStatus.Hash)
	assert.Equal(t, applied, again.RemoteConfigStatus.Status)
}

// An offer that arrives while another is worked on waits, and is not lost.
func TestTheNewestOfTwoOffersWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	c := w.start(w.args())
	agent := w.managed()
	w.load(w.receiver)
	for i := range 5 {
		w.offer(marking(fmt.Sprint("early ", i)))
		<-time.After(5 * time.Millisecond) // the situation, not a wait for something
		late := fmt.Sprint("late ", i)
		w.apply(agent, marking(late))
		w.seen(late)
		w.awaitEffective(agent, "value: "+late)
	}
	c.requireNoChildren()
	w.requireOneSession()
}

// However many offers pour in: the last one runs, and the others leave nothing
// behind.
func TestTheNewestOfManyOffersWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	profiles := freeAddr(t)
	c := w.start(w.args(w.layer("profiles.yaml", fmt.Sprintf("extensions: {fault: {pprof: %q}}\nservice: {extensions: [opamp, fault]}", profiles))))
	agent := w.managed()
	l := w.load(w.receiver)
	w.apply(agent, marking("before"))
	w.seen("before")
	before, goroutines := c.usage(), w.goroutines(profiles)

	const offers, pause = 200, 10 * time.Millisecond
	from := w.server.Mark()
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	var last []byte
	for i := range offers {
		last = w.offer(marking(fmt.Sprint("offer ", i)))
		<-ticker.C
	}
	w.await(agent, last, applied)
	mark := fmt.Sprint("offer ", offers-1)
	w.seen(mark)
	w.awaitEffective(agent, "value: "+mark)
	for _, s := range w.statuses(from) {
		assert.NotEqual(t, failed, s.state, s.message)
	}
	c.requireNoChildren()
	eventually(t, func() bool { return c.usage().descriptors <= before.descriptors }, "descriptors must not grow")
	eventually(t, func() bool { return w.goroutines(profiles) <= goroutines+inFlight }, "goroutines must not grow")
	l.requireNothingLost()
	w.requireOneSession()
	t.Logf("%d offers, %d reloads", offers, c.count(logReload))
}
