package opampprovider

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"

	"github.com/otelcol-opamp/otelcol-opamp/internal/opampuri"
	"github.com/otelcol-opamp/otelcol-opamp/internal/process"
)

var errOffered = errors.New("damaged")

// resolve resolves what the Collector is given with --config=opamp:edge and
// --config=yaml:text, or with the second alone. The agent edge has values.
func resolve(t *testing.T, main bool, text string, values map[string]string) (*confmap.Conf, error) {
	t.Helper()
	uris := []string{"yaml:" + text}
	dir := t.TempDir()
	if main {
		uris = append(uris, "opamp:edge?state_dir="+dir) // last: values are expanded when all is merged
	}
	factory := confmap.NewProviderFactory(func(set confmap.ProviderSettings) confmap.Provider {
		p := newProvider(set).(*provider)
		p.offered = func(ctx context.Context, at opampuri.URI, purpose process.Purpose) (string, bool, error) {
			assert.Equal(t, "edge", at.Name)
			assert.Equal(t, dir, p.mains[at.Name])
			if at.Value == "own_logs/proxy/url" {
				return "", false, errOffered
			}
			if value, ok := values[at.Value]; ok {
				return value, true, nil
			}
			return p.offeredValue(ctx, at, purpose)
		}
		return p
	})
	resolver, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs:              uris,
		ProviderFactories: []confmap.ProviderFactory{factory, fixed("yaml"), fixed("env")},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, resolver.Shutdown(context.Background())) })
	return resolver.Resolve(t.Context())
}

// fixedProvider is the Collector's for yaml:, and expands every ${env:…}, which no
// value may reach.
type fixedProvider string

func fixed(scheme string) confmap.ProviderFactory {
	return confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return fixedProvider(scheme) })
}
func (p fixedProvider) Scheme() string               { return string(p) }
func (fixedProvider) Shutdown(context.Context) error { return nil }
func (p fixedProvider) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	if p == "yaml" {
		return confmap.NewRetrievedFromYAML([]byte(strings.TrimPrefix(uri, "yaml:")))
	}
	return confmap.NewRetrieved("expanded")
}

// target has the kinds of fields that components have.
type target struct {
	Text    string            `mapstructure:"text"`
	Pointer *string           `mapstructure:"pointer"`
	Map     map[string]string `mapstructure:"map"`
	Number  int               `mapstructure:"number"`
	Bool    bool              `mapstructure:"bool"`
	Any     any               `mapstructure:"any"`
}

func TestValuesReachAComponentAsTheyStand(t *testing.T) {
	t.Parallel()
	for value, whole := range map[string]string{ // no subtests: the name of a folder would have their "#"
		"0123":                 "0123",
		"1e3":                  "1e3",
		"true":                 "true",
		"null":                 "null",
		"~":                    "~",
		"":                     "",
		"{a: b}":               "{a: b}",
		"[a, b]":               "[a, b]",
		" a: b ":               " a: b ",
		"Bearer $2y$$10$a":     "Bearer $2y$$10$a",
		"${env:HOME}":          "${env:HOME}",
		"$${env:HOME}":         "$${env:HOME}",
		"$":                    "$",
		"2026-11-22":           "2026-11-22",
		"https://h/a?b=c#d:-e": "https://h/a?b=c#d:-e",
	} {
		for _, path := range []string{"other_connections/b/headers/X-Key", "other_connections/b/other/x"} {
			ref := "${opamp:edge#" + path + "}"
			conf, err := resolve(t, true, "{text: \""+ref+"\", pointer: \""+ref+"\", map: {k: \"<"+ref+">\"}}", map[string]string{path: value})
			require.NoError(t, err)
			var got target
			require.NoError(t, conf.Unmarshal(&got))
			assert.Equal(t, whole, got.Text)
			assert.Equal(t, &whole, got.Pointer)
			assert.Equal(t, "<"+whole+">", got.Map["k"])
		}
	}
}

// TestValuesAreStringsWithoutAType: own telemetry is decoded from a map without
// types.
func TestValuesAreStringsWithoutAType(t *testing.T) {
	t.Parallel()
	const path = "own_metrics/headers/X-Key"
	conf, err := resolve(t, true, `any: "${opamp:edge#own_metrics/headers/X-Key}"`, map[string]string{path: "0123"})
	require.NoError(t, err)
	assert.Equal(t, "0123", conf.Get("any"))
	assert.Equal(t, map[string]any{"any": "0123"}, conf.ToStringMap())
}

func TestTypedValues(t *testing.T) {
	t.Parallel()
	conf, err := resolve(t, true, `{number: "${opamp:edge#other_connections/b/other/n}", bool: "${opamp:edge#other_connections/b/tls/insecure_skip_verify}", any: "${opamp:edge#other_connections/b/other/m}"}`,
		map[string]string{"other_connections/b/other/n": "12", "other_connections/b/tls/insecure_skip_verify": "true", "other_connections/b/other/m": "{a: {b: c}}"})
	require.NoError(t, err)
	var got target
	require.NoError(t, conf.Unmarshal(&got))
	// A map is none: a server cannot put a section where a value belongs.
	assert.Equal(t, target{Number: 12, Bool: true, Any: "{a: {b: c}}"}, got)

	conf, err = resolve(t, true, `number: "${opamp:edge#other_connections/b/headers/n}"`, map[string]string{"other_connections/b/headers/n": "12"})
	require.NoError(t, err)
	require.Error(t, conf.Unmarshal(&got))
}

func TestValueThatIsNotOffered(t *testing.T) {
	t.Parallel()
	conf, err := resolve(t, true, `{text: "${opamp:edge#other_connections/b/endpoint:-https://localhost:4318}", map: {k: "${opamp:edge#own_logs/endpoint:-}", l: "${opamp:edge#own_logs/endpoint:-${env:X}}"}}`, nil)
	require.NoError(t, err)
	var got target
	require.NoError(t, conf.Unmarshal(&got))
	assert.Equal(t, target{Text: "https://localhost:4318", Map: map[string]string{"k": "", "l": "expanded"}}, got)

	conf, err = resolve(t, true, `text: "${opamp:edge#other_connections/b/endpoint:-default}"`, map[string]string{"other_connections/b/endpoint": ""})
	require.NoError(t, err)
	assert.Empty(t, conf.Get("text"), "an offered value that is empty is no missing one")

	for text, want := range map[string]string{
		"${opamp:edge#other_connections/b/endpoint}": `there is no value "other_connections/b/endpoint": the OpAMP server has offered none; give a default if the Collector is to start without: ${opamp:edge#other_connections/b/endpoint:-default}`,
		"${opamp:edge#own_logs/proxy/url:-x}":        `reading the value for "opamp:edge#own_logs/proxy/url:-x": damaged`,
		"${opamp:#own_logs/endpoint:-x}":             `"opamp:#own_logs/endpoint:-x" is a value of an agent that has no URI: add --config=opamp:`,
		"${opamp:edge?state_dir=/x#own_logs/proxy}":  "parameters belong to the opamp: URI of --config",
		"${opamp:edge#own_logs/proxy}":               `there is no field "proxy"`,
	} {
		_, err := resolve(t, true, `text: "`+text+`"`, nil)
		require.ErrorContains(t, err, want)
	}
	_, err = resolve(t, false, `text: "${opamp:edge#own_logs/endpoint:-x}"`, nil)
	require.ErrorContains(t, err, `is a value of an agent that has no URI: add --config=opamp:edge`)
}

// TestValueHasNothingToClose: a value is told of by its configuration.
func TestValueHasNothingToClose(t *testing.T) {
	t.Parallel()
	p := newProvider(confmap.ProviderSettings{})
	main, err := p.Retrieve(t.Context(), "opamp:?state_dir="+t.TempDir(), nil)
	require.NoError(t, err)
	value, err := p.Retrieve(t.Context(), "opamp:#own_logs/endpoint:-x", func(*confmap.ChangeEvent) { t.Error("called") })
	require.NoError(t, err)
	require.NoError(t, value.Close(t.Context()))
	require.NoError(t, main.Close(t.Context()))
}
