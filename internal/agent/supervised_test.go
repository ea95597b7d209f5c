package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/agent"
	"github.com/otelcol-opamp/otelcol-opamp/internal/effectiveconfig"
	"github.com/otelcol-opamp/otelcol-opamp/internal/statedir"
)

func TestSupervisedIsToldFromTheLocalLayers(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "effective.yaml")
	require.NoError(t, os.WriteFile(file, []byte("extensions:\n  opamp:\n    ppid: 42\n"), 0o600))
	for _, tt := range []struct {
		name, of string
		args     []string
		want     bool
	}{
		{"a file", "", []string{"--config", file, "--config=opamp:"}, true},
		{"another extension's", "edge", []string{"--config", file}, false},
		{"in one text", "edge", []string{"--config=yaml:extensions::opamp/edge::ppid: 42"}, true},
		{"the last layer says no", "", []string{"--config", file, "--config=yaml:extensions::opamp::ppid: 0"}, false},
		{"a later layer is silent", "", []string{"--config", file, "--config=yaml:extensions::opamp::server: {}"}, true},
		{"0 is none", "", []string{"--config=yaml:extensions: {opamp: {ppid: 0}}"}, false},
		{"a reference is not known", "", []string{"--config=yaml:extensions: {opamp: {ppid: '${env:P}'}}"}, false},
		{"another word with these letters", "", []string{"--config=yaml:receivers: {clippid: }"}, false},
		{"no layer", "", []string{"--config=opamp:"}, false},
	} {
		assert.Equal(t, tt.want, agent.Supervised(tt.of, tt.args), tt.name)
	}
}

// An agent under a supervisor announces no remote configuration and leaves the
// folder alone, in which another one may have left what it was running.
func TestSupervisedAgentOnlyReports(t *testing.T) {
	parent := t.TempDir()
	t.Setenv(statedir.EnvStateDir, parent)
	s := startServer(t)
	h := newHost(t, s, "")
	set := h.settings()
	set.Supervised = true
	e, err := agent.AcquireExtension(t.Context(), t.Name(), set)
	require.NoError(t, err)
	e.NotifyConfig(effectiveconfig.Snapshot{Effective: map[string]any{"receivers": map[string]any{"otlp": nil}}})
	e.Ready()
	s.wait(t, "effective config", func() bool { return strings.Contains(s.effective, "otlp") })
	require.NoError(t, e.Release(t.Context()))
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Zero(t, s.caps&uint64(protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig))
	assert.NotZero(t, s.caps&uint64(protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth))
	entries, err := os.ReadDir(parent)
	require.NoError(t, err)
	assert.Empty(t, entries)
}
