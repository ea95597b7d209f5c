package opampextension

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/featuregate"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-opamp/otelcol-opamp/extension/opampextension/internal/metadata"
)

// intended says which blocks have another result than with contrib's extension:
// contrib's accepts them, and then dials for ever, looks at the parent process
// without pause, or does not look at the TLS settings.
var intended = map[string]string{
	"websocket to an http URL":                     "extensions::opamp: `server::ws::endpoint` must begin with ws:// or wss://, found scheme \"http\"",
	"http to a websocket URL":                      "extensions::opamp: `server::http::endpoint` must begin with http:// or https://, found scheme \"ws\"",
	"endpoint without scheme":                      "extensions::opamp: `server::ws::endpoint` must be a URL such as wss://host:4320/v1/opamp",
	"negative parent process":                      "extensions::opamp: `ppid` must be 0 or greater, found -1",
	"parent process looked at without pause":       "extensions::opamp: `ppid_poll_interval` must be positive, found 0s",
	"negative poll interval of the parent process": "extensions::opamp: `ppid_poll_interval` must be positive, found -1s",
	"http, certificate authority twice and a wrong instance UID": "extensions::opamp: opamp instance_uid is invalid\n" +
		"extensions::opamp::server::http::tls: provide either a CA file or the PEM-encoded string, but not both\n" +
		"extensions::opamp::server::http::tls::config: provide either a CA file or the PEM-encoded string, but not both",
}

// loaded is what became of a block: see testbed/tools/contribconfig, which
// writes this for contrib's extension.
type loaded struct {
	Name    string            `json:"name"`
	Config  map[string]any    `json:"config"`
	Headers map[string]string `json:"headers"`
	Error   string            `json:"error"`
}

// load does what the Collector does with a block.
func load(block map[string]any) (*Config, error) {
	cfg := createDefaultConfig().(*Config)
	if err := confmap.NewFromStringMap(block).Unmarshal(cfg); err != nil {
		return nil, err
	}
	all := struct {
		Extensions map[component.ID]component.Config `mapstructure:"extensions"`
	}{map[component.ID]component.Config{component.MustNewID("opamp"): cfg}}
	return cfg, confmap.Validate(&all)
}

// TestContribBlocksLoadAsInContrib loads every block that a user of contrib's
// extension may have, and compares with what that extension makes of it: the
// values of all its keys, or the text of the error.
//
// Conformance: E10, 19
func TestContribBlocksLoadAsInContrib(t *testing.T) {
	text, err := os.ReadFile("testdata/contrib_blocks.yaml")
	require.NoError(t, err)
	var blocks []struct {
		Name           string         `yaml:"name"`
		RemoteRestarts bool           `yaml:"remote_restarts"`
		Block          map[string]any `yaml:"block"`
	}
	require.NoError(t, yaml.Unmarshal(text, &blocks))
	text, err = os.ReadFile("testdata/contrib_blocks.golden.json")
	require.NoError(t, err)
	var golden []loaded
	require.NoError(t, json.Unmarshal(text, &golden))
	require.Len(t, golden, len(blocks), "run make contrib-golden")
	gate := metadata.ExtensionOpampextensionRemoteRestartsFeatureGate
	t.Cleanup(func() { assert.NoError(t, featuregate.GlobalRegistry().Set(gate.ID(), false)) })
	for name := range intended {
		require.True(t, slices.ContainsFunc(golden, func(l loaded) bool { return l.Name == name }), "no block %q", name)
	}
	for i, b := range blocks {
		t.Run(b.Name, func(t *testing.T) {
			want := golden[i]
			require.Equal(t, want.Name, b.Name, "run make contrib-golden")
			require.NoError(t, featuregate.GlobalRegistry().Set(gate.ID(), b.RemoteRestarts))
			cfg, err := load(b.Block)
			if text, differs := intended[b.Name]; differs {
				require.NotEqual(t, want.Error, text, "no difference any more")
				require.EqualError(t, err, text)
				return
			}
			if want.Error != "" {
				require.EqualError(t, err, want.Error)
				return
			}
			require.NoError(t, err)
			conf := confmap.New()
			require.NoError(t, conf.Marshal(cfg))
			assert.Equal(t, want.Config, asJSON(t, shared(conf.ToStringMap(), want.Config)))
			headers := map[string]string{}
			for key, value := range cfg.Server.connection().Headers {
				headers[key] = string(value)
			}
			assert.Equal(t, want.Headers, headers)
		})
	}
}

// shared returns the part of ours whose keys contrib's extension has, too.
func shared(ours, contribs map[string]any) map[string]any {
	out := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(contribs)) {
		value, ok := ours[key]
		if !ok {
			continue
		}
		sub, isMap := value.(map[string]any)
		contribSub, wasMap := contribs[key].(map[string]any)
		if isMap && wasMap {
			value = shared(sub, contribSub)
		}
		out[key] = value
	}
	return out
}

// asJSON gives values the types that they have in the golden file.
func asJSON(t *testing.T, m map[string]any) map[string]any {
	t.Helper()
	text, err := json.Marshal(m)
	require.NoError(t, err)
	var out map[string]any
	require.NoError(t, json.Unmarshal(text, &out))
	return out
}

// TestPollingInterval: unset and zero mean the 30 s of the specification.
//
// Conformance: 13
func TestPollingInterval(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"server: {http: {endpoint: http://x}}":                        30 * time.Second,
		"server: {http: {endpoint: http://x, polling_interval: 0s}}":  30 * time.Second,
		"server: {http: {endpoint: http://x, polling_interval: 45s}}": 45 * time.Second,
	} {
		var block map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(text), &block))
		cfg, err := load(block)
		require.NoError(t, err)
		assert.Equal(t, want, cfg.Server.pollingInterval(), text)
	}
}
