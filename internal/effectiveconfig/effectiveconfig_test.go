package effectiveconfig_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-opamp/otelcol-opamp/internal/effectiveconfig"
)

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &m))
	return m
}

func view(t *testing.T, s effectiveconfig.Snapshot, v effectiveconfig.View) map[string]any {
	t.Helper()
	data, err := s.YAML(v)
	require.NoError(t, err)
	return parse(t, string(data))
}

// Conformance: 69, E7
func TestReferencesStandInPlaceOfValues(t *testing.T) {
	t.Parallel()
	s := effectiveconfig.Snapshot{
		Effective: parse(t, `
exporters:
  otlp: {endpoint: 'https://user:pw@host:4317', headers: {k: canary, j: '[REDACTED]'}, timeout: 5s}
  moved: {inner: {token: canary}, plain: x}
  listed: {headers: [{name: k, value: '[REDACTED]'}, {name: literal, value: '[REDACTED]'}], name: n}
  copied: {a: canary, b: 'Bearer canary'}
  whole: {a: canary, b: canary}
  untouched: {a: b}
processors:
  attributes: {actions: [{key: a, value: canary}, {key: b, value: literal}]}
  longer: {list: [canary, x]}
service: {pipelines: {traces: {receivers: [otlp]}}}
`),
		Unexpanded: parse(t, `
exporters:
  otlp: {endpoint: 'https://user:pw@host:4317', headers: {k: '${env:K}', j: '[REDACTED]'}}
  moved: {token: '${env:K}', plain: x}
  listed: {headers: {k: '${env:K}', literal: secret}, name: n}
  copied: {a: '${env:K}'}
  whole: ${file:/etc/whole.yaml}
processors:
  attributes: {actions: [{key: a, value: '${env:K}'}, {key: b, value: literal}]}
  longer: {list: ['${env:K}']}
service: {pipelines: {traces: {receivers: [otlp]}}}
`),
	}
	got := view(t, s, effectiveconfig.References)
	assert.Equal(t, parse(t, `
exporters:
  otlp: {endpoint: 'https://[REDACTED]@host:4317', headers: {k: '${env:K}', j: '[REDACTED]'}, timeout: 5s}
  moved: {token: '${env:K}', plain: x}
  listed: {headers: {k: '${env:K}', literal: '[REDACTED]'}, name: n}
  copied: {a: '${env:K}', b: 'Bearer ${env:K}'}
  whole: ${file:/etc/whole.yaml}
  untouched: {a: b}
processors:
  attributes: {actions: [{key: a, value: '${env:K}'}, {key: b, value: literal}]}
  longer: {list: ['${env:K}']}
service: {pipelines: {traces: {receivers: [otlp]}}}
`), got)
	assert.Contains(t, view(t, s, effectiveconfig.Expanded)["exporters"].(map[string]any)["whole"], "a")
}

func TestASectionGivenByAReference(t *testing.T) {
	t.Parallel()
	s := effectiveconfig.Snapshot{
		Effective:  parse(t, "exporters: {otlp: {token: canary}}"),
		Unexpanded: parse(t, "exporters: '${file:/etc/exporters.yaml}'"),
	}
	assert.Equal(t, parse(t, "exporters: '${file:/etc/exporters.yaml}'"), view(t, s, effectiveconfig.References))
}

func TestWithoutTheWrittenFormOnlyKeysAreShown(t *testing.T) {
	t.Parallel()
	s := effectiveconfig.Snapshot{Effective: parse(t, "exporters: {otlp: {token: canary, n: 1, l: [a]}}")}
	assert.Equal(t, parse(t, "exporters: {otlp: {token: '[REDACTED]', n: '[REDACTED]', l: ['[REDACTED]']}}"), view(t, s, effectiveconfig.References))
}

// Conformance: 65
func TestViewAfterAPartialReload(t *testing.T) {
	t.Parallel()
	snapshot := effectiveconfig.Snapshot{
		Effective: parse(t, `
receivers:
  local: {endpoint: x}
  remote: {endpoint: canary, added_default: 1, kept: same}
  gone: {a: b}
  pinned: {endpoint: by-the-last-layer}
exporters: {debug: {verbosity: basic}}
service: {pipelines: {traces: {receivers: [remote, gone], exporters: [debug]}}, telemetry: {logs: {level: info}}}
`),
		Unexpanded: parse(t, `
receivers:
  local: {endpoint: x}
  remote: {endpoint: '${env:E}', kept: same}
  gone: {a: b}
  pinned: {endpoint: by-the-last-layer}
exporters: {debug: }
service: {pipelines: {traces: {receivers: [remote, gone], exporters: [debug]}}}
`),
	}
	former := parse(t, `
receivers: {remote: {endpoint: '${env:E}', kept: same}, gone: {a: b}, pinned: {endpoint: from-remote}, partly: {x: 1}}
service: {pipelines: {traces: {receivers: [remote, gone], exporters: [debug]}}}
`)
	latter := parse(t, `
receivers: {remote: {endpoint: '${env:F}', kept: same}, added: {c: '${env:G}'}, pinned: {endpoint: from-remote-again}}
service: {pipelines: {traces: {receivers: [remote, added], exporters: [debug]}}}
`)
	got := view(t, snapshot.ReplaceReceivers(former, latter), effectiveconfig.References)
	assert.Equal(t, parse(t, `
local: {endpoint: x}
remote: {endpoint: '${env:F}', added_default: 1, kept: same}
added: {c: '${env:G}'}
pinned: {endpoint: by-the-last-layer}
`), withoutKey(got["receivers"], "partly"))
	assert.Equal(t, parse(t, "traces: {receivers: [remote, added], exporters: [debug]}"), got["service"].(map[string]any)["pipelines"])
	assert.Equal(t, parse(t, "verbosity: basic"), got["exporters"].(map[string]any)["debug"])
}

func withoutKey(m any, key string) map[string]any {
	out := m.(map[string]any)
	delete(out, key)
	return out
}
