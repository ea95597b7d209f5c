package connsettings_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-opamp/otelcol-opamp/internal/connsettings"
)

func values() connsettings.Values {
	return connsettings.Values{
		Own: map[connsettings.Signal]connsettings.Destination{connsettings.Metrics: {Endpoint: "https://m:4318/v1/metrics"}},
		Others: map[string]connsettings.Destination{
			"backend": {
				Endpoint: "https://b:4318",
				Headers:  http.Header{"Authorization": {"Bearer s3cret"}, "X-Two": {"a", "b"}, "X-Empty": {""}},
				TLS:      &connsettings.TLS{MinVersion: "TLSv1.3"},
				Proxy:    &connsettings.Proxy{URL: "http://u:s3cret@p:3128"},
				Other:    map[string]string{"tenant": "t", "a/b": "c", "empty": ""},
				CAFile:   "backend/ca.pem", CertFile: "backend/1/cert.pem", KeyFile: "backend/1/key.pem",
			},
			"bare": {},
		},
		Resource: map[string]string{"service.name": "collector"},
	}
}

// TestEncode: what is encoded is read again, equal values are encoded alike, and the
// digest tells values apart.
func TestEncode(t *testing.T) {
	t.Parallel()
	v := values()
	again, err := connsettings.DecodeValues(v.Encode())
	require.NoError(t, err)
	assert.Equal(t, v, again)
	assert.Equal(t, v.Digest(), again.Digest())
	assert.Len(t, v.Digest(), 64)
	for range 20 {
		assert.Equal(t, string(v.Encode()), string(values().Encode()))
	}
	other := values()
	other.Own = nil
	assert.NotEqual(t, v.Digest(), other.Digest())

	for _, empty := range []connsettings.Values{{}, {Own: map[connsettings.Signal]connsettings.Destination{}, Others: map[string]connsettings.Destination{}}, {Resource: map[string]string{"a": "b"}}} {
		assert.True(t, empty.IsEmpty())
		assert.Empty(t, empty.Digest())
	}
	again, err = connsettings.DecodeValues(connsettings.Values{}.Encode())
	require.NoError(t, err)
	assert.True(t, again.IsEmpty())
}

func TestDecodeValuesFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ data, want string }{
		"nothing":         {"", "this is not what was encoded"},
		"cut":             {`{"others":{"a":{"headers":{"A":["s3cret"`, "this is not what was encoded"},
		"another type":    {`{"others":"s3cret"}`, "this is not what was encoded"},
		"signal":          {`{"own":{"own_profiles":{}}}`, `there is no own telemetry "own_profiles"`},
		"name":            {`{"others":{"../a":{}}}`, `"../a" is no name of a connection`},
		"file outside":    {`{"others":{"a":{"key_file":"../record"}}}`, `other_connections/a: the file "../record" is not in the folder`},
		"absolute file":   {`{"own":{"own_logs":{"ca_file":"/etc/shadow"}}}`, `own_logs: the file "/etc/shadow" is not in the folder`},
		"file by detours": {`{"others":{"a":{"cert_file":"a/../../b"}}}`, "is not in the folder"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := connsettings.DecodeValues([]byte(tt.data))
			require.ErrorContains(t, err, tt.want)
			assert.NotContains(t, err.Error(), "s3cret")
			assert.Zero(t, v)
		})
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	v := values()
	for path, want := range map[string]string{
		"own_metrics/endpoint":                               "https://m:4318/v1/metrics",
		"other_connections/backend/endpoint":                 "https://b:4318",
		"other_connections/backend/headers/Authorization":    "Bearer s3cret",
		"other_connections/backend/headers/authorization":    "Bearer s3cret",
		"other_connections/backend/headers/X-Two":            "a, b",
		"other_connections/backend/tls/ca_file":              "/state/connections/backend/ca.pem",
		"other_connections/backend/tls/cert_file":            "/state/connections/backend/1/cert.pem",
		"other_connections/backend/tls/key_file":             "/state/connections/backend/1/key.pem",
		"other_connections/backend/tls/min_version":          "1.3",
		"other_connections/backend/tls/insecure_skip_verify": "false",
		"other_connections/backend/proxy/url":                "http://u:s3cret@p:3128",
		"other_connections/backend/other/tenant":             "t",
		"other_connections/backend/other/a/b":                "c",
		"other_connections/backend/other/empty":              "", // offered, so that no default applies
		"other_connections/backend/headers/X-Empty":          "",
	} {
		got, err := v.Get(path, "/state/connections")
		require.NoError(t, err, path)
		assert.Equal(t, want, got, path)
	}
}

// TestGetFails: who mistyped a path learns what there is; a value that was not offered
// can have a default, a path that can never have one cannot.
func TestGetFails(t *testing.T) {
	t.Parallel()
	outside := values()
	outside.Others["backend"] = connsettings.Destination{CAFile: "../x"}
	for _, tt := range []struct {
		path  string
		v     connsettings.Values
		unset bool
		want  []string
	}{
		{path: "own_traces/endpoint", v: values(), unset: true, want: []string{"own_traces/endpoint:-default"}},
		{path: "own_metrics/tls/ca_file", v: values(), unset: true, want: []string{"own_metrics/tls/ca_file:-default"}},
		{path: "own_metrics/tls/insecure_skip_verify", v: values(), unset: true},
		{path: "own_metrics/tls/min_version", v: values(), unset: true},
		{path: "own_metrics/proxy/url", v: values(), unset: true},
		{path: "own_metrics/headers/A", v: values(), unset: true},
		{path: "own_metrics/other/a", v: values(), unset: true},
		{path: "other_connections/backup/endpoint", v: values(), unset: true, want: []string{`offered are "backend", "bare"`, "other_connections/backup/endpoint:-default"}},
		{path: "other_connections/backup/endpoint", unset: true, want: []string{"offered is none"}},
		{path: "other_connections/bare/endpoint", v: values(), unset: true, want: []string{`the field "endpoint" of other_connections/bare`}},
		{path: "other_connections/backend/headers/X-Three", v: values(), unset: true},
		{path: "other_connections/backup/end", v: values(), want: []string{`there is no field "end": there are endpoint, headers/<name>, tls/ca_file`}},
		{path: "other_connections/backend/headers/", v: values(), want: []string{"there is no field"}},
		{path: "other_connections/backend/other/", v: values(), want: []string{"there is no field"}},
		{path: "other_connections/backend", v: values(), want: []string{`there is no field ""`}},
		{path: "other_connections/a b/endpoint", v: values(), want: []string{`"a b" is no name of a connection`}},
		{path: "other_connections", v: values(), want: []string{"write other_connections/<name>/<field>"}},
		{path: "backend/endpoint", v: values(), want: []string{"a path begins with own_metrics, own_traces, own_logs, or other_connections/<name>"}},
		{path: "", v: values(), want: []string{"a path begins with"}},
		{path: "own_metrics", v: values(), want: []string{`there is no field ""`}},
		{path: "other_connections/backend/tls/ca_file", v: outside, want: []string{`the file "../x" is not in the folder of connections`}},
	} {
		t.Run(tt.path, func(t *testing.T) {
			t.Parallel()
			got, err := tt.v.Get(tt.path, "/state/connections")
			assert.Empty(t, got)
			require.Error(t, err)
			assert.Equal(t, tt.unset, errors.Is(err, connsettings.ErrUnset), "%v", err)
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
}

// FuzzDecodeValues: whatever is read is what was encoded, and no path leads out of the
// folder of connections.
func FuzzDecodeValues(f *testing.F) {
	f.Add(values().Encode(), "other_connections/backend/tls/key_file")
	f.Add([]byte(`{"others":{"a":{"key_file":"../record"}}}`), "other_connections/a/tls/key_file")
	f.Add([]byte(`{"own":{"own_logs":{"tls":{"min_version":"TLSv1.2"}}}}`), "own_logs/tls/min_version")
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		v, err := connsettings.DecodeValues(data)
		if err != nil {
			require.Zero(t, v)
			return
		}
		again, err := connsettings.DecodeValues(v.Encode())
		require.NoError(t, err)
		require.Equal(t, v.Digest(), again.Digest())
		dir := filepath.FromSlash("/state/connections")
		got, err := v.Get(path, dir)
		if err != nil {
			require.Empty(t, got)
			return
		}
		if strings.HasSuffix(path, "/tls/ca_file") || strings.HasSuffix(path, "/tls/cert_file") || strings.HasSuffix(path, "/tls/key_file") {
			if _, name, other := strings.Cut(path, "/other/"); other && name != "" {
				return // a further setting that has such a name
			}
			if _, name, header := strings.Cut(path, "/headers/"); header && name != "" {
				return
			}
			inside, err := filepath.Rel(dir, got)
			require.NoError(t, err)
			require.True(t, filepath.IsLocal(inside), "%q leads to %q", path, got)
		}
	})
}
