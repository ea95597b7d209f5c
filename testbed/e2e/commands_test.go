//go:build unix

package e2e_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/testbed/otelcol"
)

// The Collector's other commands may be used beside the live process, with its
// own arguments. They see the remote configuration and change nothing.
func TestCommandsBesideTheLiveProcessChangeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args()
	c := w.start(args)
	agent := w.managed()
	l := w.load(w.receiver)
	w.apply(agent, marking("remote"))
	w.seen("remote")
	shown := filepath.Join(w.state, "opamp", "state.json")
	require.Eventually(t, func() bool { // it is written behind the report
		state, err := os.ReadFile(shown)
		return err == nil && strings.Contains(string(state), `"state": "idle"`)
	}, patience, time.Millisecond)
	reloads, messages := c.count(logReload), w.server.Mark()
	before := files(t, w.state)
	require.NotEmpty(t, before)

	for _, tt := range []struct {
		args     []string
		contains []string
	}{
		{args: append([]string{"validate"}, args...)},
		{args: append(slices.Clone(args), "validate")},
		{args: []string{"components"}, contains: []string{"otlp_grpc", "opamp"}},
		{args: append([]string{"print-config"}, args...), contains: []string{"attributes/e2e", "value: remote"}},
		{args: append([]string{"print-config", "--mode=unredacted"}, args...), contains: []string{"attributes/e2e", "value: remote"}},
	} {
		code, log := run(t, tt.args)
		assert.Zerof(t, code, "%s: %s", tt.args, log)
		for _, text := range tt.contains {
			assert.Contains(t, log, text, tt.args)
		}
		assert.Equal(t, before, files(t, w.state), "names, contents and times in the state folder after %s", tt.args)
	}
	w.seenFromNow("remote")
	assert.Equal(t, reloads, c.count(logReload))
	for _, m := range w.server.MessagesFrom(messages) {
		t.Errorf("a command made somebody talk to the server: %s", m.Summary())
	}
	w.requireOneSession()
	l.requireNothingLost()
}

// Before the first start there is no state folder, and a command makes none.
func TestCommandsWithoutStateFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noServer: true})
	for _, command := range []string{"validate", "print-config"} {
		code, log := run(t, append([]string{command}, w.args()...))
		assert.Zero(t, code, log)
		assert.NoDirExists(t, w.state)
	}
}

// run runs a command to its end.
func run(t *testing.T, args []string) (code int, log string) {
	t.Helper()
	path, err := binary()
	require.NoError(t, err)
	p, err := otelcol.Start(otelcol.Settings{Binary: path, Args: args})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.KillAll()) })
	code, err = p.Wait(patiently(t))
	require.NoError(t, err)
	return code, p.Log()
}
