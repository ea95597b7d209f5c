package opampextension

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
)

// load reads a configuration as the Collector does.
func loadBlock(t *testing.T, text string) *Config {
	t.Helper()
	var all map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &all))
	block, err := confmap.NewFromStringMap(all).Sub("extensions::opamp")
	require.NoError(t, err)
	cfg, ok := createDefaultConfig().(*Config)
	require.True(t, ok)
	require.NoError(t, block.Unmarshal(cfg))
	require.NoError(t, cfg.Validate())
	return cfg
}

// The examples of the documentation load, and the one with the defaults has them.
func TestPolicyDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/policy.md")
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)<!-- test: (\\w+) -->\n```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, examples, 6)
	for _, example := range examples {
		cfg := loadBlock(t, example[2])
		if example[1] != "defaults" {
			assert.NotEqual(t, policy.DefaultSettings(), cfg.Policy)
			continue
		}
		written := cfg.Policy // with empty lists where the defaults have none
		deny := &written.Components.Deny
		for _, list := range []*[]string{
			&deny.Receivers, &deny.Processors, &deny.Exporters, &deny.Connectors, &deny.Extensions,
			&written.Locked, &written.Files.Execute.Allow, &written.Connections.Hosts.Allow,
		} {
			assert.Empty(t, *list)
			*list = nil
		}
		assert.Empty(t, written.Require)
		written.Require = nil
		assert.Equal(t, policy.DefaultSettings(), written)
	}
	require.NotContains(t, string(text), "@TABLE@")
}

func TestPolicySettings(t *testing.T) {
	t.Parallel()
	const server = "server: {ws: {endpoint: 'ws://x'}}"
	cfg := loadBlock(t, "extensions: {opamp: {"+server+", policy: {env: {allow: [A], deny: []}, components: {deny: {receivers: [filelog]}}, limits: {max_bytes: 1KiB}, listen: {allow: []}, files: {execute: }}}}")
	assert.Equal(t, []string{"A"}, cfg.Policy.Env.Allow)
	assert.Empty(t, cfg.Policy.Env.Deny, "an empty list is a list")
	assert.Equal(t, []string{"*"}, cfg.Policy.Components.Allow.Receivers, "what is not set stays")
	assert.Equal(t, []string{"filelog"}, cfg.Policy.Components.Deny.Receivers)
	assert.Equal(t, policy.Size(1024), cfg.Policy.Limits.MaxBytes)
	assert.NotNil(t, cfg.Policy.Listen)
	assert.Nil(t, cfg.Policy.Files.Read)
	connections := loadBlock(t, "extensions: {opamp: {"+server+", policy: {connections: {hosts: {allow: ['*.example.com']}, may_weaken_tls: true, may_replace_auth: true}}}}").Policy.Connections
	assert.Equal(t, policy.ConnectionSettings{Hosts: policy.AllowSettings{Allow: []string{"*.example.com"}}, MayWeakenTLS: true, MayReplaceAuth: true}, connections)
	cfg.Policy.Limits.MaxDepth = 0
	require.ErrorContains(t, cfg.Validate(), "`policy::limits::max_depth` must be positive")
	assert.Equal(t, policy.DefaultSettings(), loadBlock(t, "extensions: {opamp: {"+server+"}}").Policy)
}
