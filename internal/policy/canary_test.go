package policy_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
)

const (
	canary     = "canary-4711"
	canaryFile = "/canary/file"
)

// canaryVariables are those that the corpus names.
var canaryVariables = map[string]string{
	"CANARY_SECRET":               canary,
	"OTELCOL_REMOTE_CANARY_TOKEN": canary,
	"OTELCOL_REMOTE_FILE":         "${file:" + canaryFile + "}",
	"OTELCOL_REMOTE_ENV":          "${env:CANARY_SECRET}",
	"OTELCOL_REMOTE_LIST":         `["\x24{env:CANARY_SECRET}"]`,
	"OTELCOL_REMOTE_MAP":          `{a: "\x24{file:` + canaryFile + `}"}`,
	"OTELCOL_REMOTE_DOLLAR":       "$",
	"OTELCOL_REMOTE_OPEN":         "{",
	"OTELCOL_REMOTE_SCHEME":       "file",
	"HOSTNAME":                    "host",
}

// payload is a remote configuration of the corpus.
type payload struct{ name, body string }

func corpus(t testing.TB) []payload {
	t.Helper()
	data, err := os.ReadFile("testdata/canary.txt")
	require.NoError(t, err)
	text := strings.NewReplacer("@FILE@", canaryFile, "@METADATA@", "127.0.0.1:1").Replace(string(data))
	heading := regexp.MustCompile(`(?m)^-- (.*) --\n`)
	found := heading.FindAllStringSubmatchIndex(text, -1)
	var all []payload
	for i, m := range found {
		end := len(text)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		all = append(all, payload{text[m[2]:m[3]], encode(text[m[2]:m[3]], text[m[1]:end])})
	}
	require.GreaterOrEqual(t, len(all), 60)
	return all
}

func encode(name, body string) string {
	if strings.HasPrefix(body, "value:") {
		body = "processors:\n  attributes/e2e:\n    actions:\n      - key: e2e.canary\n        action: upsert\n        " +
			strings.ReplaceAll(strings.TrimSpace(body), "\n", "\n        ") +
			"\nservice: {pipelines: {traces: {processors: [attributes/e2e, batch]}}}\n"
	}
	switch {
	case strings.Contains(name, "[utf16le]"):
		return utf16(body)
	case strings.Contains(name, "[utf16be]"):
		swapped := []byte(utf16(body))
		for i := 0; i < len(swapped); i += 2 {
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
		}
		return string(swapped)
	case strings.Contains(name, "[bom]"):
		return "\ufeff" + body
	}
	return body
}

// collector resolves configurations as the Collector does, and records what it
// reads.
type collector struct {
	variables map[string]string
	read      []string // URIs
}

// reader is a provider of the collector.
type reader struct {
	*collector
	scheme string
	root   map[string]any
}

func (r *reader) Scheme() string               { return r.scheme }
func (*reader) Shutdown(context.Context) error { return nil }
func (r *reader) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	if r.root != nil {
		return confmap.NewRetrieved(r.root)
	}
	r.read = append(r.read, uri)
	rest := strings.TrimPrefix(uri, r.scheme+":")
	if r.scheme != "env" {
		return confmap.NewRetrievedFromYAML([]byte(canary))
	}
	// As envprovider v1.64.0.
	name, fallback, hasFallback := strings.Cut(rest, ":-")
	if !regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`).MatchString(name) {
		return nil, fmt.Errorf("environment variable %q has invalid name", name)
	}
	value, set := r.variables[name]
	switch {
	case !set && hasFallback && fallback == "":
		return confmap.NewRetrieved("")
	case !set:
		value = fallback
	}
	return confmap.NewRetrievedFromYAML([]byte(value))
}

// resolve resolves a configuration on top of a local one.
func (c *collector) resolve(local, remote map[string]any) (map[string]any, error) {
	var factories []confmap.ProviderFactory
	for _, r := range []*reader{
		{c, "local", local},
		{c, "root", remote},
		{c, "env", nil},
		{c, "file", nil},
		{c, "http", nil},
		{c, "https", nil},
		{c, "yaml", nil},
		{c, "opamp", nil},
		{c, "nonesuch", nil},
	} {
		factories = append(factories, confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return r }))
	}
	resolver, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs: []string{"local:", "root:"}, ProviderFactories: factories, DefaultScheme: "env",
	})
	if err != nil {
		return nil, err
	}
	conf, err := resolver.Resolve(context.Background())
	if err != nil {
		return nil, err
	}
	return conf.ToStringMap(), nil
}

func lookupIn(variables map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := variables[name]
		return value, ok
	}
}

// No configuration of the corpus brings a canary to light: the policy refuses it,
// or there is none in what the Collector makes of it.
func TestCanaries(t *testing.T) {
	t.Parallel()
	p := policy.Default()
	accepted := 0
	for _, payload := range corpus(t) {
		side := localSide
		side.LookupEnv = lookupIn(canaryVariables)
		conf, err := parse(p, payload.body)
		if err == nil {
			conf, err = p.Check(conf, side)
		}
		if err != nil {
			assert.NotContains(t, err.Error(), canary, payload.name)
			continue
		}
		accepted++
		c := &collector{variables: canaryVariables}
		resolved, err := c.resolve(map[string]any{"extensions": map[string]any{"opamp": nil}}, conf)
		assert.NotContains(t, fmt.Sprint(resolved, err), canary, payload.name)
		for _, uri := range c.read {
			assert.Contains(t, uri, "env:OTELCOL_REMOTE_", payload.name)
		}
	}
	// Some show that what is harmless passes.
	assert.InDelta(t, 6, accepted, 4, "accepted configurations")
}

// Without a policy most of the corpus shows a canary: the test above would notice.
func TestCanariesSing(t *testing.T) {
	t.Parallel()
	sing := 0
	for _, payload := range corpus(t) {
		conf, err := parse(policy.Default(), payload.body)
		if err != nil {
			continue
		}
		c := &collector{variables: canaryVariables}
		resolved, err := c.resolve(map[string]any{}, conf)
		if strings.Contains(fmt.Sprint(resolved, err), canary) {
			sing++
		}
	}
	assert.GreaterOrEqual(t, sing, 40)
}
