package policy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/policy"
)

const secret = "canary-4711"

// payload is a remote configuration of the corpus.
type payload struct {
	name string
	body []byte
}

// corpus returns the payloads of testdata/canary.
func corpus(tb testing.TB) []payload {
	tb.Helper()
	names, err := filepath.Glob("testdata/canary/*.yaml")
	require.NoError(tb, err)
	require.GreaterOrEqual(tb, len(names), 60)
	var all []payload
	for _, name := range names {
		body, err := os.ReadFile(name)
		require.NoError(tb, err)
		all = append(all, payload{filepath.Base(name), []byte(placed.Replace(string(body)))})
	}
	return all
}

var placed = strings.NewReplacer("@FILE@", "/canary/file", "@METADATA@", "127.0.0.1:1", "@SECRET@", secret)

// canaryVariables are those that the corpus speaks of.
var canaryVariables = sync.OnceValue(func() map[string]string {
	text, err := os.ReadFile("testdata/canary/variables.env")
	if err != nil {
		panic(err)
	}
	all := map[string]string{"HOSTNAME": "host"}
	for line := range strings.Lines(placed.Replace(string(text))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		all[name] = value
	}
	return all
})

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
		return confmap.NewRetrievedFromYAML([]byte(secret))
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
		side.LookupEnv = lookupIn(canaryVariables())
		conf, err := parse(p, string(payload.body))
		if err == nil {
			conf, err = p.Check(conf, side)
		}
		if err != nil {
			assert.NotContains(t, err.Error(), secret, payload.name)
			continue
		}
		accepted++
		c := &collector{variables: canaryVariables()}
		resolved, err := c.resolve(map[string]any{"extensions": map[string]any{"opamp": nil}}, conf)
		assert.NotContains(t, fmt.Sprint(resolved, err), secret, payload.name)
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
		conf, err := parse(policy.Default(), string(payload.body))
		if err != nil {
			continue
		}
		c := &collector{variables: canaryVariables()}
		resolved, err := c.resolve(map[string]any{}, conf)
		if strings.Contains(fmt.Sprint(resolved, err), secret) {
			sing++
		}
	}
	assert.GreaterOrEqual(t, sing, 40)
}
