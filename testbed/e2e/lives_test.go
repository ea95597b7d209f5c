//go:build unix

package e2e_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/opampserver"
)

// failpoints is the variable that makes the small distribution fail on purpose.
const failpoints = "OTELCOL_OPAMP_FAILPOINT="

// keeper is a service manager: whenever the process ends, it starts another one.
type keeper struct {
	w    *world
	args []string
	c    *collector
	// deaths counts the processes that ended unasked.
	deaths int
}

// start runs a process with an environment that only this one has.
func (k *keeper) start(env ...string) {
	k.w.t.Helper()
	k.c = k.w.start(k.args, env...)
}

// look starts the next process if the last one has ended.
func (k *keeper) look() {
	k.w.t.Helper()
	select {
	case <-k.c.Exited():
		k.deaths++
		k.bury()
		k.start()
	default:
	}
}

// bury takes note that a process has ended, in whatever way, and checks that
// nothing is left of it.
func (k *keeper) bury() {
	k.w.t.Helper()
	k.c.ended = true
	_, err := k.c.Wait(patiently(k.w.t))
	require.NoError(k.w.t, err)
	assert.Eventually(k.w.t, func() bool {
		left, err := k.c.Leftovers()
		return errors.Is(err, errors.ErrUnsupported) || err == nil && len(left) == 0
	}, patience, 10*time.Millisecond, "processes that outlived the Collector")
}

// kill ends the process without giving it a chance; the next look starts another.
func (k *keeper) kill() {
	k.w.t.Helper()
	_ = k.c.Kill() // it may have ended by itself
	<-k.c.Exited()
}

// restart ends the process in order and starts the next one.
func (k *keeper) restart(env ...string) {
	k.w.t.Helper()
	require.NoError(k.w.t, k.c.Stop(patiently(k.w.t)))
	k.bury()
	k.start(env...)
}

// settled keeps the process running until the server knows the verdict on a
// configuration from a process that is up, and what it runs.
func (k *keeper) settled(hash []byte) opampserver.Agent {
	k.w.t.Helper()
	var agent opampserver.Agent
	ok := assert.Eventually(k.w.t, func() bool {
		k.look()
		agents := k.w.server.Agents()
		if len(agents) != 1 || k.c.count("Connected to the OpAMP server") == 0 {
			return false
		}
		agent = agents[0]
		s := agent.RemoteConfigStatus
		if shown := k.shown(); shown.State != "idle" || shown.Status.Hash != hex.EncodeToString(hash) {
			return false // the process may die yet
		}
		return agent.Connected && agent.Health != nil && agent.Health.GetStatus() != "StatusStarting" &&
			bytes.Equal(s.Hash, hash) && (s.Status == applied || s.Status == failed)
	}, patience, 20*time.Millisecond)
	if !ok {
		require.FailNowf(k.w.t, "no verdict", "on %x; the server knows %+v", hash, agent.RemoteConfigStatus)
	}
	return agent
}

// shownState is what the agent shows to operators, as far as it is of use here.
type shownState struct {
	PID    int    `json:"pid"`
	State  string `json:"state"`
	Status struct {
		Hash string `json:"hash"`
	} `json:"status"`
}

// shown reads it; the zero value if there is none yet.
func (k *keeper) shown() shownState {
	k.w.t.Helper()
	data, err := os.ReadFile(filepath.Join(k.w.state, "opamp", "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return shownState{}
	}
	require.NoError(k.w.t, err)
	var s shownState
	require.NoError(k.w.t, json.Unmarshal(data, &s), "state.json is never torn")
	return s
}

var markValue = regexp.MustCompile(`value: "?(m\d+)`)

// runs waits until the agent reports one of the marks as what it runs, and spans
// with it arrive; an empty mark is that of a configuration without one.
func (k *keeper) runs(agent opampserver.Agent, marks map[string]bool) string {
	k.w.t.Helper()
	var mark string
	_, err := k.w.server.WaitFor(patiently(k.w.t), agent.UID, func(a opampserver.Agent) bool {
		mark = ""
		if m := markValue.FindStringSubmatch(a.EffectiveConfig[""]); m != nil {
			mark = m[1]
		}
		return a.Connected && a.EffectiveConfig != nil && marks[mark]
	})
	require.NoErrorf(k.w.t, err, "%q runs, and not one of %v", mark, marks)
	if mark != "" {
		k.w.seenFromNow(mark)
	}
	return mark
}

// candidate is a kind of offer, and what must become of it if nobody interferes.
type candidate struct {
	kind string
	yaml func(mark string) string
	good bool
	// before: it is refused before the trigger.
	before bool
	// deadly: it takes the process away.
	deadly bool
}

func candidates() []candidate {
	fault := func(fault string) func(string) string {
		return func(mark string) string { return withFault(mark, fault) }
	}
	return []candidate{
		{kind: "good", yaml: marking, good: true},
		{kind: "does not start", yaml: fault("fail_start: true, message: no such account")},
		{kind: "gives up in the trial", yaml: func(mark string) string { return turningBad(mark, "") }},
		{kind: "no YAML", yaml: func(mark string) string { return "receivers: [" + mark }, before: true},
		{kind: "unknown component", yaml: func(mark string) string { return fmt.Sprintf("receivers: {nothing_%s: {}}", mark) }, before: true},
		{kind: "panics in Start", yaml: fault("panic_start: true")},
		{kind: "FatalError in Start", yaml: fault("in_start: fatal_error, message: not in a cluster")},
		{kind: "FatalError in the trial", yaml: fault("after: 20ms, then: fatal_error, message: out of the cluster")},
		{kind: "panics in the trial", yaml: fault("after: 20ms, then: panic, message: boom"), deadly: true},
		{kind: "hangs in Start", yaml: fault("hang_start: true")},
	}
}

// requireExplained checks that the text of a failure says why, and what runs.
func requireExplained(w *world, agent opampserver.Agent, before bool) {
	w.t.Helper()
	text := agent.RemoteConfigStatus.ErrorMessage
	require.NotEmpty(w.t, text)
	if !before {
		require.Contains(w.t, text, "; running ")
	}
	require.NotContains(w.t, strings.ToLower(text), "%!", "a verb without its value")
}
