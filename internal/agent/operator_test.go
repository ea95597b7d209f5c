package agent_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

// operator is somebody who is logged in on the machine.
type operator struct {
	t      *testing.T
	folder string
}

func newOperator(h *host) operator {
	h.t.Helper()
	folder, err := statedir.Locate(h.dir, h.name)
	require.NoError(h.t, err)
	return operator{h.t, folder}
}

// asks leaves a request.
func (o operator) asks(request, text string) {
	o.t.Helper()
	require.NoError(o.t, os.WriteFile(filepath.Join(o.folder, "requests", request), []byte(text), 0o600))
}

// sees returns the state file.
func (o operator) sees() map[string]any {
	o.t.Helper()
	data, err := os.ReadFile(filepath.Join(o.folder, "state.json"))
	require.NoError(o.t, err)
	var state map[string]any
	require.NoError(o.t, json.Unmarshal(data, &state))
	return state
}

func TestOperatorGoesBackAndForgives(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	running := make(chan map[string]any, 20)
	h.started = func(conf map[string]any, _ *agent.ExtensionLease) { running <- conf }
	h.start()
	require.Empty(t, receive(t, running))
	o := newOperator(h)
	s.push(t, "h1", "receivers: {a: {x: 1}}")
	s.waitStatus(t, "h1", applied)
	require.Equal(t, map[string]any{"receivers": map[string]any{"a": map[string]any{"x": 1}}}, receive(t, running))
	s.push(t, "h2", "receivers: {a: {x: 2}}")
	s.waitStatus(t, "h2", applied)
	receive(t, running)
	require.Eventually(t, func() bool { // it is written after the server was told
		lkg, _ := o.sees()["last_known_good"].(map[string]any)
		return lkg["hash"] == "6832" // the server's hash in hexadecimal
	}, waitTime, tick)
	assert.Len(t, o.sees()["earlier"], 1)

	o.asks("go-back", "")
	status := s.waitStatus(t, "h2", failed)
	assert.Contains(t, status.GetErrorMessage(), "an operator of this machine went back to an earlier configuration; running last known good 6831")
	assert.Equal(t, map[string]any{"receivers": map[string]any{"a": map[string]any{"x": 1}}}, receive(t, running))
	assert.NoFileExists(t, filepath.Join(o.folder, "requests", "go-back"))

	// The server cannot undo it with what it has sent before.
	s.push(t, "h2", "receivers: {a: {x: 2}}")
	o.asks("go-back", "")
	require.Eventually(t, func() bool {
		history, _ := o.sees()["history"].([]any)
		last, _ := history[len(history)-1].(map[string]any)
		return last["what"] == "refused: operator's request requests/go-back" && last["reason"] == "there is no earlier configuration that was known to be good"
	}, waitTime, tick)
	assert.Empty(t, running)

	o.asks("clear-rejected", "")
	s.waitStatus(t, "h1", applied)
	s.push(t, "h2", "receivers: {a: {x: 2}}")
	s.waitStatus(t, "h2", applied)
	assert.Equal(t, map[string]any{"receivers": map[string]any{"a": map[string]any{"x": 2}}}, receive(t, running))
}

// A request may be made while no process runs: it is done before anything is
// served.
func TestOperatorsRequestBeforeTheStart(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	h.start()
	for _, hash := range []string{"h1", "h2", "h3"} {
		s.push(t, hash, "receivers: {a: {x: "+hash+"}}")
		s.waitStatus(t, hash, applied)
	}
	h.end()
	o := newOperator(h)
	o.asks("go-back", "6831\n")
	again := newHost(t, s, h.dir)
	again.name = h.name
	running := make(chan map[string]any, 1)
	again.started = func(conf map[string]any, _ *agent.ExtensionLease) { running <- conf }
	again.start()
	assert.Equal(t, map[string]any{"receivers": map[string]any{"a": map[string]any{"x": "h1"}}}, receive(t, running))
	status := s.waitStatus(t, "h3", failed)
	assert.Contains(t, status.GetErrorMessage(), "an operator")
	history, _ := o.sees()["history"].([]any)
	assert.Greater(t, len(history), 10, "those of the former process are kept")
}

// What is not a plain file is no request, and no reason for a log line every two
// seconds.
func TestRequestThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	h.start()
	o := newOperator(h)
	s.wait(t, "health", func() bool { return s.health != nil })
	require.NoError(t, os.MkdirAll(filepath.Join(o.folder, "requests", "go-back", "x"), 0o700))
	refused := func() int {
		n := 0
		for _, entry := range o.sees()["history"].([]any) {
			if entry.(map[string]any)["what"] == "refused: operator's request requests/go-back" {
				n++
			}
		}
		return n
	}
	require.Eventually(t, func() bool { return refused() == 1 }, waitTime, tick)
	require.NoError(t, os.RemoveAll(filepath.Join(o.folder, "requests", "go-back")))
	s.push(t, "h1", "receivers: {a: {x: 1}}")
	s.waitStatus(t, "h1", applied)
	assert.Equal(t, 1, refused())
}

// A request whose name is wrong is told once, with the names that are right.
func TestUnknownRequestIsToldOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	h := newHost(t, s, t.TempDir())
	core, logged := observer.New(zap.ErrorLevel)
	h.log = zap.New(core)
	started := make(chan *agent.ExtensionLease, 1)
	h.started = func(_ map[string]any, e *agent.ExtensionLease) { started <- e }
	h.start()
	e := receive(t, started)
	o := newOperator(h)
	s.wait(t, "health", func() bool { return s.health != nil })
	told := func(name string) int {
		n := 0
		for _, entry := range logged.FilterMessageSnippet("An operator's request is not known").All() {
			if entry.ContextMap()["request"] == "requests/"+name {
				assert.Equal(t, []any{"requests/go-back", "requests/clear-rejected", "requests/clear-connection"}, entry.ContextMap()["known"])
				n++
			}
		}
		return n
	}
	o.asks("rollback", "")
	o.asks(".go-back.swp", "")
	require.Eventually(t, func() bool { return told("rollback") == 1 }, waitTime, tick)
	assert.FileExists(t, filepath.Join(o.folder, "requests", "rollback"))
	// It is found by a later look, also after the folder was left alone for a while.
	long := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(o.folder, "requests"), long, long))
	require.Eventually(t, e.RequestsAreQuiet, waitTime, tick)
	o.asks("another", "")
	require.Eventually(t, func() bool { return told("another") == 1 }, waitTime, tick)
	assert.Equal(t, 1, told("rollback"))
	assert.Zero(t, told(".go-back.swp"))
	assert.Contains(t, fmt.Sprint(o.sees()["history"]), "there is no such request; those that there are: requests/go-back, requests/clear-rejected, requests/clear-connection")
}
