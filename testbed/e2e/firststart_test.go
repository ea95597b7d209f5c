//go:build unix

package e2e_test

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// requireEnds waits for the end of a process that must end with an error and not be
// replaced, and checks that it says why.
func (c *collector) requireEnds(why string) {
	c.w.t.Helper()
	code, err := c.Wait(patiently(c.w.t))
	require.NoError(c.w.t, err)
	c.ended = true
	assert.Equal(c.w.t, 1, code)
	assert.Zero(c.w.t, c.count(logReplacing), c.tail())
	assert.Contains(c.w.t, c.Log(), why)
}

// A command line that contradicts itself ends the process with its error, whatever
// the folder holds; the commands that only look say it too.
func TestContradictingCommandLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	args := w.args()
	for why, uris := range map[string][]string{
		`the agent "" is given two state folders`:    {"--config=opamp:?state_dir=" + w.dir + "/another"},
		"guard=true must be in the first opamp: URI": {"--config=opamp:edge?guard=true&state_dir=" + w.state},
	} {
		w.start(append(args, uris...)).requireEnds(why)
		w.start(append([]string{"validate"}, append(args, uris...)...)).requireEnds(why)
	}
}

// A first start that fails ends as that of every Collector: there is nothing yet to
// fall back to, and somebody is probably looking.
func TestFirstStartThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", w.receiver)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	c := w.start(w.args())
	c.requireEnds("address already in use")
	assert.Equal(t, 1, strings.Count(c.Log(), "Error: cannot start pipelines"))
}
