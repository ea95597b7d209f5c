package owntelemetry_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
	otelconf "go.opentelemetry.io/contrib/otelconf/v0.3.0"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
	"github.com/otelcol-opamp/otelcol-opamp/internal/owntelemetry"
)

// values are what the provider of a test answers.
var values = map[string]string{
	"own_metrics/endpoint":          "http://localhost:4318/metrics/v1",
	"own_metrics/headers/X-Key":     "0123",
	"own_metrics/headers/X-Tenant":  "$$a",
	"own_metrics/tls/ca_file":       "/state/connections/ca",
	"own_metrics/tls/cert_file":     "/state/connections/cert",
	"own_metrics/tls/key_file":      "/state/connections/key",
	"own_traces/endpoint":           "https://traces/v1/traces",
	"own_logs/endpoint":             "https://logs/v1/logs",
	"own_logs/headers/Some-Headers": "a",
}

func offered() connsettings.Values {
	return connsettings.Values{
		Own: map[connsettings.Signal]connsettings.Destination{
			connsettings.Metrics: {
				Endpoint: "unused", Headers: http.Header{"X-Key": {"unused"}, "X-Tenant": {"unused"}},
				CAFile: "ca", CertFile: "cert", KeyFile: "key",
			},
			connsettings.Traces: {Endpoint: "unused"},
			connsettings.Logs:   {Endpoint: "unused", Headers: http.Header{"Some-Headers": {"unused"}}},
		},
		Resource: map[string]string{"service.instance.id": "uid", "host.name": "a$b${c:d}"},
	}
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &m))
	return m
}

// mapProvider serves one map for each URI, and the values of connections.
type mapProvider struct {
	scheme string
	layers map[string]map[string]any
}

func (p mapProvider) Scheme() string               { return p.scheme }
func (mapProvider) Shutdown(context.Context) error { return nil }
func (p mapProvider) Retrieve(_ context.Context, uri string, _ confmap.WatcherFunc) (*confmap.Retrieved, error) {
	if path, ok := strings.CutPrefix(uri, "opamp:edge#"); ok {
		value, ok := values[path]
		if !ok {
			return nil, fmt.Errorf("no value %q", path)
		}
		return confmap.NewRetrieved(strings.ReplaceAll(value, "$", "$$"))
	}
	layer, ok := p.layers[uri]
	if !ok {
		return nil, fmt.Errorf("nothing at %q", uri)
	}
	return confmap.NewRetrieved(layer)
}

// decode merges the layers as the Collector does, and decodes and validates the
// section as the Collector does. The overlay of v is merged over below.
func decode(t *testing.T, v connsettings.Values, local owntelemetry.Lists) (*otelconftelemetry.Config, error) {
	t.Helper()
	before, err := json.Marshal(local)
	require.NoError(t, err)
	overlay := owntelemetry.Overlay(v, "edge", local)
	after, err := json.Marshal(local)
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after), "the configuration was modified")

	layers := append(append([]map[string]any{}, local.Below...), overlay)
	layers = append(layers, local.Above...)
	provider := mapProvider{"opamp", map[string]map[string]any{}}
	uris := []string{}
	for i, layer := range layers {
		uri := fmt.Sprintf("opamp:%d", i)
		uris = append(uris, uri)
		provider.layers[uri] = layer
	}
	resolver, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs:              uris,
		ProviderFactories: []confmap.ProviderFactory{confmap.NewProviderFactory(func(confmap.ProviderSettings) confmap.Provider { return provider })},
	})
	require.NoError(t, err)
	conf, err := resolver.Resolve(t.Context())
	require.NoError(t, err)
	sub, err := conf.Sub("service::telemetry")
	require.NoError(t, err)
	cfg := otelconftelemetry.NewFactory().CreateDefaultConfig().(*otelconftelemetry.Config)
	if err := sub.Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, confmap.Validate(cfg)
}

func TestOverlayIsWhatTheCollectorAccepts(t *testing.T) {
	t.Parallel()
	cfg, err := decode(t, offered(), owntelemetry.Lists{})
	require.NoError(t, err)
	require.NoError(t, owntelemetry.Check(offered(), owntelemetry.Lists{}))

	defaults := otelconftelemetry.NewFactory().CreateDefaultConfig().(*otelconftelemetry.Config)
	require.Len(t, cfg.Metrics.Readers, 2)
	assert.Equal(t, defaults.Metrics.Readers[0], cfg.Metrics.Readers[0], "the Collector's own reader")
	periodic := cfg.Metrics.Readers[1].Periodic
	require.NotNil(t, periodic)
	assert.Equal(t, 10_000, *periodic.Interval)
	assert.Equal(t, 3_000, *periodic.Timeout)
	assert.Equal(t, &otelconf.OTLPMetric{
		Protocol:          new("http/protobuf"),
		Endpoint:          new(values["own_metrics/endpoint"]),
		Headers:           []otelconf.NameStringValuePair{{Name: "X-Key", Value: new("0123")}, {Name: "X-Tenant", Value: new("$$a")}},
		Certificate:       new("/state/connections/ca"),
		ClientCertificate: new("/state/connections/cert"),
		ClientKey:         new("/state/connections/key"),
	}, periodic.Exporter.OTLP)

	require.Len(t, cfg.Traces.Processors, 1)
	assert.Equal(t, &otelconf.OTLP{Protocol: new("http/protobuf"), Endpoint: new("https://traces/v1/traces")}, cfg.Traces.Processors[0].Batch.Exporter.OTLP)
	require.Len(t, cfg.Logs.Processors, 1)
	assert.Equal(t, "https://logs/v1/logs", *cfg.Logs.Processors[0].Batch.Exporter.OTLP.Endpoint)
	assert.Equal(t, []otelconf.NameStringValuePair{{Name: "Some-Headers", Value: new("a")}}, cfg.Logs.Processors[0].Batch.Exporter.OTLP.Headers)
	assert.Equal(t, []otelconf.AttributeNameValue{{Name: "host.name", Value: "a$b${c:d}"}, {Name: "service.instance.id", Value: "uid"}}, cfg.Resource.Attributes)
	assert.Equal(t, defaults.Logs.Sampling, cfg.Logs.Sampling)
	assert.Equal(t, defaults.Metrics.Level, cfg.Metrics.Level)
}

// TestOverlayHoldsNoValue: what is secret stays behind references.
func TestOverlayHoldsNoValue(t *testing.T) {
	t.Parallel()
	v := offered()
	for signal, d := range v.Own {
		d.Endpoint, d.CAFile, d.CertFile, d.KeyFile = "secret", "secret", "secret", "secret"
		d.Headers = http.Header{"X-Key": {"secret"}}
		d.Proxy = &connsettings.Proxy{URL: "secret"}
		v.Own[signal] = d
	}
	text, err := json.Marshal(owntelemetry.Overlay(v, "edge", owntelemetry.Lists{}))
	require.NoError(t, err)
	assert.NotContains(t, string(text), "secret")
	assert.Contains(t, string(text), "${opamp:edge#own_traces/headers/X-Key}")
	text, err = json.Marshal(owntelemetry.Overlay(v, "", owntelemetry.Lists{}))
	require.NoError(t, err)
	assert.Contains(t, string(text), "${opamp:#own_traces/headers/X-Key}")
}

func TestNothingOffered(t *testing.T) {
	t.Parallel()
	for _, v := range []connsettings.Values{
		{},
		{Resource: map[string]string{"a": "b"}},
		{Own: map[connsettings.Signal]connsettings.Destination{connsettings.Metrics: {}}},
		{Others: map[string]connsettings.Destination{"b": {Endpoint: "https://b"}}},
	} {
		assert.Empty(t, owntelemetry.Overlay(v, "", owntelemetry.Lists{}))
		require.NoError(t, owntelemetry.Check(v, owntelemetry.Lists{Hidden: true}))
	}
}

// TestListsAreUnited: the remote list replaces the local one, as ever, and the
// offered destination is added.
func TestListsAreUnited(t *testing.T) {
	t.Parallel()
	local := parse(t, `
service::telemetry:
  metrics: {level: detailed, readers: [{pull: {exporter: {prometheus: {host: 0.0.0.0, port: 9999}}}}]}
  traces: {processors: [{batch: {exporter: {otlp: {protocol: grpc, endpoint: "https://local"}}}}]}
  logs: {level: debug, processors: []}
  resource: {schema_url: x, attributes: [{name: host.name, value: local}, {name: team, value: b}]}
`)
	remote := parse(t, `service: {telemetry: {traces: {processors: [{simple: {exporter: {console: {}}}}]}}}`)
	lists := owntelemetry.Lists{Below: []map[string]any{local, remote}, Above: []map[string]any{parse(t, `service: {telemetry: {logs: {level: warn}}}`)}}
	cfg, err := decode(t, offered(), lists)
	require.NoError(t, err)
	require.NoError(t, owntelemetry.Check(offered(), lists))
	require.Len(t, cfg.Metrics.Readers, 2)
	assert.Equal(t, 9999, *cfg.Metrics.Readers[0].Pull.Exporter.Prometheus.Port)
	assert.NotNil(t, cfg.Metrics.Readers[1].Periodic)
	require.Len(t, cfg.Traces.Processors, 2)
	assert.NotNil(t, cfg.Traces.Processors[0].Simple)
	assert.NotNil(t, cfg.Traces.Processors[1].Batch)
	require.Len(t, cfg.Logs.Processors, 1)
	assert.Equal(t, "warn", cfg.Logs.Level.String())
	assert.Equal(t, []otelconf.AttributeNameValue{
		{Name: "team", Value: "b"},
		{Name: "host.name", Value: "a$b${c:d}"},
		{Name: "service.instance.id", Value: "uid"},
	}, cfg.Resource.Attributes)
	assert.Equal(t, "x", *cfg.Resource.SchemaUrl)
}

// TestOlderForms: both are accepted by the Collector, each for a whole section.
func TestOlderForms(t *testing.T) {
	t.Parallel()
	lists := owntelemetry.Lists{Below: []map[string]any{parse(t, `
service:
  telemetry:
    metrics: {readers: [{periodic: {exporter: {otlp: {protocol: http/protobuf, endpoint: "https://local", headers: {a: b}}}}}]}
    logs: {processors: [{batch: {exporter: {otlp: {protocol: http/protobuf, endpoint: "https://local", headers: {a: b}}}}}]}
    resource: {host.name: local, service.version: null}
`)}}
	cfg, err := decode(t, offered(), lists)
	require.NoError(t, err)
	require.Len(t, cfg.Metrics.Readers, 2)
	assert.ElementsMatch(t, []otelconf.NameStringValuePair{{Name: "X-Key", Value: new("0123")}, {Name: "X-Tenant", Value: new("$$a")}},
		cfg.Metrics.Readers[1].Periodic.Exporter.OTLP.Headers)
	require.Len(t, cfg.Logs.Processors, 2)
	assert.Empty(t, cfg.Resource.Attributes)
	assert.Equal(t, map[string]any{"host.name": "a$b${c:d}", "service.instance.id": "uid", "service.version": nil}, cfg.Resource.LegacyAttributes)

	above := owntelemetry.Lists{Above: []map[string]any{parse(t, `service: {telemetry: {resource: {host.name: fixed}}}`)}}
	cfg, err = decode(t, offered(), above)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"host.name": "fixed", "service.instance.id": "uid"}, cfg.Resource.LegacyAttributes)
}

// TestWhatIsLocalIsNotLost: where a list cannot be united it stays as it is.
func TestWhatIsLocalIsNotLost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`service: "${file:x}"`:                                              "own_metrics: service::telemetry is a reference",
		`service: {telemetry: "${file:x}"}`:                                 "own_metrics: service::telemetry is a reference",
		`service::telemetry::metrics: "${file:x}"`:                          "own_metrics: service::telemetry::metrics is a reference",
		`service: {telemetry: {metrics: {readers: "${file:x}"}}}`:           "own_metrics: service::telemetry::metrics::readers is a reference",
		`service: {telemetry: {metrics: {level: None}}}`:                    "own_metrics: service::telemetry::metrics::level is none",
		`service: {telemetry: {traces: {level: none}}}`:                     "own_traces: service::telemetry::traces::level is none",
		`service: {telemetry: {logs: {processors: "${file:x}"}}}`:           "own_logs: service::telemetry::logs::processors is a reference",
		`service: {telemetry: {resource: "${file:x}"}}`:                     "resource: service::telemetry::resource is a reference",
		`service: {telemetry: {resource: {attributes: "${file:x}"}}}`:       "resource: service::telemetry::resource::attributes is a reference",
		`service: {telemetry: {resource: {attributes: ["${file:x}"]}}}`:     "resource: an entry of service::telemetry::resource::attributes is a reference",
		`service: {telemetry: {logs: {processors: ["${file:x}"]}}}`:         "", // stays an entry
		`service: {telemetry: {metrics: {level: "${env:L}", readers: []}}}`: "",
		`service: {telemetry: null}`:                                        "",
		`service:`:                                                          "",
		`service: {telemetry: {metrics: {readers: null}, resource: null}}`:  "",
	} {
		layer := parse(t, text)
		lists := owntelemetry.Lists{Below: []map[string]any{layer}}
		err := owntelemetry.Check(offered(), lists)
		overlay := confmap.NewFromStringMap(owntelemetry.Overlay(offered(), "edge", lists))
		if want == "" {
			require.NoError(t, err, text)
			assert.True(t, overlay.IsSet("service::telemetry::metrics::readers"), text)
			continue
		}
		require.ErrorContains(t, err, want, text)
		signal, _, _ := strings.Cut(want, ":")
		at := map[string]string{
			"own_metrics": "service::telemetry::metrics", "own_traces": "service::telemetry::traces", "own_logs": "service::telemetry::logs",
			"resource": "service::telemetry::resource",
		}[signal]
		assert.False(t, overlay.IsSet(at), text)
		assert.Equal(t, strings.Contains(want, "telemetry is"), !overlay.IsSet("service"), "the rest is as ever: %s", text)
	}

	hidden := owntelemetry.Lists{Hidden: true}
	assert.Empty(t, owntelemetry.Overlay(offered(), "edge", hidden))
	require.ErrorContains(t, owntelemetry.Check(offered(), hidden), "own_logs: a layer of --config cannot be read")

	for text, want := range map[string]string{
		`service: {telemetry: {metrics: {readers: []}}}`:          "own_metrics: service::telemetry::metrics::readers is set in a layer after the opamp: URI",
		`service: {telemetry: {metrics: null}}`:                   "own_metrics: service::telemetry::metrics::readers is set in a layer after the opamp: URI",
		`service: {telemetry: null}`:                              "own_logs: service::telemetry::logs::processors is set in a layer after the opamp: URI",
		`service: null`:                                           "own_logs: service::telemetry::logs::processors is set in a layer after the opamp: URI",
		`service: {telemetry: {metrics: {level: none}}}`:          "own_metrics: service::telemetry::metrics::level is none",
		`service: {telemetry: {resource: {attributes: []}}}`:      "resource: service::telemetry::resource::attributes is set in a layer after the opamp: URI",
		`service: {telemetry: "${file:x}"}`:                       "own_logs: service::telemetry is a reference",
		`service: {telemetry: {metrics: {level: basic}}}`:         "",
		`service: {telemetry: {resource: {schema_url: "a://b"}}}`: "",
	} {
		err := owntelemetry.Check(offered(), owntelemetry.Lists{
			Below: []map[string]any{parse(t, `service: {telemetry: {metrics: {level: normal}}}`)},
			Above: []map[string]any{parse(t, text)},
		})
		if want == "" {
			require.NoError(t, err, text)
		} else {
			require.ErrorContains(t, err, want, text)
		}
	}
}

func TestCheckNamesWhatOwnTelemetryCannotHave(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]connsettings.Destination{
		"":                                {TLS: &connsettings.TLS{MinVersion: "TLSv1.2", MaxVersion: "1.3", SystemCAs: true}, CertFile: "a", KeyFile: "b"},
		"a query in the endpoint":         {Endpoint: "https://x/v1/logs?a=b"},
		"a user in the endpoint":          {Endpoint: "https://a:b@x/v1/logs"},
		"a proxy":                         {Proxy: &connsettings.Proxy{URL: "http://p"}},
		"insecure_skip_verify":            {TLS: &connsettings.TLS{InsecureSkipVerify: true}},
		`the least version "1.3" of TLS`:  {TLS: &connsettings.TLS{MinVersion: "1.3"}},
		`the last version "1.2" of TLS`:   {TLS: &connsettings.TLS{MaxVersion: "1.2"}},
		"a list of cipher suites":         {TLS: &connsettings.TLS{CipherSuites: []string{"x"}}},
		"together with those of the":      {TLS: &connsettings.TLS{SystemCAs: true}, CAFile: "ca"},
		"certificate without a key":       {CertFile: "a"},
		`header "A$b" cannot be referred`: {Headers: http.Header{"A$b": {"c"}}},
	} {
		d.Endpoint = cmp.Or(d.Endpoint, "https://x")
		v := connsettings.Values{Own: map[connsettings.Signal]connsettings.Destination{connsettings.Logs: d}}
		err := owntelemetry.Check(v, owntelemetry.Lists{})
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, "own_logs: ")
		require.ErrorContains(t, err, want)
	}
}

func TestReferencesOnlyToWhatThereIs(t *testing.T) {
	t.Parallel()
	v := connsettings.Values{Own: map[connsettings.Signal]connsettings.Destination{connsettings.Traces: {Endpoint: "x", CAFile: filepath.Join("a", "b")}}}
	text, err := json.Marshal(owntelemetry.Overlay(v, "", owntelemetry.Lists{}))
	require.NoError(t, err)
	assert.JSONEq(t, `{"service": {"telemetry": {"traces": {"processors": [{"batch": {"export_timeout": 3000, "exporter": {"otlp": {
		"protocol": "http/protobuf", "endpoint": "${opamp:#own_traces/endpoint}", "certificate": "${opamp:#own_traces/tls/ca_file}"}}}}]}}}}`, string(text))
}
